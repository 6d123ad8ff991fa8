"""What a run leaves in writing, and what it prints."""

import json
import shutil

import pytest

from bwsk_jax.train import main
from bwsk_jax.variants import VARIANTS
from tests.support.runs import FLAGS, results

REFERENCE_KEYS = [
    *("model_slug", "experiment", "mode", "final_train_loss", "best_val_metric", "test_metric"),
    *("metric_name", "epochs_completed", "total_steps", "early_stopped", "wall_time_s", "peak_memory_mb"),
    *("loss_curve", "val_curve", "nan_count", "erasure_budget", "parallelism_ratio"),
]


OWN_KEYS = {
    *("val_metric_name", "final_val_metric", "final_val_unigram_perplexity", "test_unigram_perplexity"),
    *(
        "unigram_perplexity",
        "compiled_peak_mb",
        "step_time_ms",
        "tokens_per_s",
        "plan",
        "classification",
        "versions",
        "command",
    ),
}


ROOT_KEYS = [
    *("model_name", "slug", "hf_id", "arch_family", "arch_type"),
    *("params_m", "s_ratio", "k_ratio", "runs", "timestamp", "written_by"),
]


def test_results_have_the_reference_keys_and_ours(finished):
    for variant in ("scratch-conventional", "scratch-analyzed", "scratch-reversible", "finetune-reversible"):
        found = results(finished, variant)
        assert list(found)[: len(REFERENCE_KEYS)] == REFERENCE_KEYS
        assert set(found) >= OWN_KEYS
        assert found["mode"] == VARIANTS[variant].mode
        assert found["total_steps"] == len(found["loss_curve"]) == 4
        assert found["best_val_metric"] == min(value for _, value in found["val_curve"])
        assert found["metric_name"] == found["val_metric_name"] == "pseudo_perplexity"
        assert found["final_val_metric"] == found["best_val_metric"]
        assert found["final_val_unigram_perplexity"] == found["unigram_perplexity"]
        assert found["compiled_peak_mb"] > 0 and found["tokens_per_s"] > 0
        for key in ("plan", "classification", "erasure_budget", "parallelism_ratio"):
            assert (found[key] is None) == (variant == "scratch-conventional")
    plan = results(finished, "scratch-reversible")["plan"]
    assert 0 < plan["saved_bytes"] < plan["residual_bytes"] and plan["table"]


def test_results_hold_the_shares_of_what_preserves_and_erases(finished):
    """Without dropout, of the demo's 2 layers and its head only the 3 activations erase by the reference."""
    found = results(finished, "scratch-analyzed")
    leaves = found["classification"]["reference"]["leaf_modules"]
    assert leaves["K"] == 3 and found["erasure_budget"] == 3 / sum(leaves.values())
    assert found["erasure_budget"] + found["parallelism_ratio"] == 1
    assert found["classification"]["strict"]["leaf_modules"]["K"] > 3
    root = json.loads((finished / "results.json").read_text())
    assert root["k_ratio"] is not None


def test_root_gathers_the_variants(finished):
    root = json.loads((finished / "results.json").read_text())
    assert list(root) == ROOT_KEYS
    assert [(run["experiment"], run["mode"]) for run in root["runs"]] == [
        ("finetune", "bwsk_reversible"),
        ("scratch", "conventional"),
        ("scratch", "bwsk_analyzed"),
        ("scratch", "bwsk_reversible"),
    ]
    card = (finished / "README.md").read_text()
    assert card.startswith("---\n") and "## Fine-tune" in card and "## From scratch" in card
    assert "Memory saved by *reversible* against *conventional*" in card
    assert (finished / "scratch-reversible" / "loss.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("validation", "said"), [(1e6, True), (1.5, False)])
def test_a_model_that_is_no_better_than_frequencies_is_said_to_be(
    finished, text_folder, tmp_path, capsys, validation, said
):
    out = shutil.copytree(finished, tmp_path / "out")
    file = out / "scratch-conventional" / "training_results.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"final_val_metric": validation}))
    main(["--variant", "scratch-conventional", "--dataset", text_folder, "--out", str(out), *FLAGS])
    assert ("no better than the frequencies of the tokens" in capsys.readouterr().out) is said


def test_the_closing_table_is_followed_by_the_loading_code(text_folder, tmp_path, capsys):
    flags = ["--dataset", text_folder, "--out", str(tmp_path), *FLAGS]
    main(["--variant", "scratch-conventional", *flags])
    output = capsys.readouterr().out
    assert "step 1/4  loss " in output
    assert "validation pseudo-perplexity" in output
    *_, imports, load = output.splitlines()
    assert imports == "from transformers import AutoModelForMaskedLM, AutoTokenizer"
    assert f"from_pretrained('{tmp_path}', subfolder='scratch-conventional')" in load
