"""All modes compute the same function of the same parameters, and the same command the same run."""

import jax
import numpy as np

import bwsk_jax
from bwsk_jax.train import main
from bwsk_jax.training.flags import Flags
from bwsk_jax.training.resolve import prepare
from bwsk_jax.training.resume import resolved_flags
from tests.support.runs import results


def test_analyzed_is_conventional_bit_for_bit(finished):
    conventional, analyzed = (results(finished, f"scratch-{mode}") for mode in ("conventional", "analyzed"))
    for curve in ("loss_curve", "val_curve"):
        assert conventional[curve] == analyzed[curve]
    weights = [
        (finished / f"scratch-{mode}" / "model.safetensors").read_bytes()
        for mode in ("conventional", "analyzed")
    ]
    assert weights[0] == weights[1]


def test_reversible_follows_conventional(finished):
    conventional, reversible = (
        results(finished, f"scratch-{mode}") for mode in ("conventional", "reversible")
    )
    for curve in ("loss_curve", "val_curve"):
        np.testing.assert_allclose(reversible[curve], conventional[curve], rtol=1e-3)


def test_all_modes_have_one_parameter_tree(text_folder):
    trees = set()
    for mode in ("conventional", "analyzed", "reversible"):
        setup = prepare(Flags(variant=f"scratch-{mode}", dataset=text_folder, seq_len=16))
        trees.add(str(jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), setup.params)))
    assert len(trees) == 1


def test_reversible_scan_gets_the_limits(text_folder):
    setup = prepare(
        Flags(variant="scratch-reversible", dataset=text_folder, seq_len=16, max_overhead=float("inf"))
    )
    assert setup.scan.func is bwsk_jax.reversible_scan
    assert setup.scan.keywords == {"max_overhead": float("inf"), "max_bytes": None}


def test_what_a_preset_decides_a_flag_decides_differently(finished, text_folder):
    given = {"dropout": 0.3, "mask_rate": 0.4, "clip": float("inf"), "schedule": "linear", "patience": 9}
    flags = {"dataset": text_folder, "seq_len": 16, "variant": "scratch-conventional"}
    setup = prepare(Flags(**flags, **given))
    for name, value in given.items():
        assert getattr(setup.recipe, name) == value
    assert (setup.config.hidden_dropout_prob, setup.config.attention_probs_dropout_prob) == (0.3, 0.3)
    assert resolved_flags(setup)["clip"] == "inf" and resolved_flags(setup)["mask_rate"] == 0.4
    assert resolved_flags(setup)["beta2"] == 0.999


def test_a_model_that_is_fine_tuned_keeps_its_dropout_unless_a_flag_says_otherwise(finished, text_folder):
    init = str(finished / "scratch-conventional")
    flags = {"dataset": text_folder, "seq_len": 16, "variant": "finetune-conventional", "init": init}
    own, given = prepare(Flags(**flags, preset="base")), prepare(Flags(**flags, dropout=0.2))
    assert own.config.hidden_dropout_prob == 0 and given.config.hidden_dropout_prob == 0.2
    assert resolved_flags(own)["dropout"] is None and resolved_flags(given)["dropout"] == 0.2


def test_a_runs_options_fed_back_reproduce_it_bit_for_bit(finished, tmp_path):
    main(["--config", str(finished / "finetune-reversible" / "options.json"), "--out", str(tmp_path)])
    for curve in ("loss_curve", "val_curve", "test_metric"):
        assert (
            results(tmp_path, "finetune-reversible")[curve] == results(finished, "finetune-reversible")[curve]
        )
    roots = (tmp_path, finished)
    weights = [(root / "finetune-reversible" / "model.safetensors").read_bytes() for root in roots]
    assert weights[0] == weights[1]
