"""Runs on several simulated devices, from the command line to what they leave."""

import json

import numpy as np
import pytest

from bwsk_jax import bert
from bwsk_jax.train import main
from tests.support.compilers import on_tpu
from tests.support.runs import FLAGS, killed_after_save, results

CURVES = ("loss_curve", "val_curve")


def run(text_folder, out, *flags):
    main(["--variant", "scratch-reversible", "--dataset", text_folder, "--out", str(out), *FLAGS, *flags])


@pytest.mark.slow
def test_a_run_leaves_what_it_leaves_on_one_device_and_goes_on_on_another_mesh(
    finished, text_folder, tmp_path, monkeypatch, capsys
):
    """Killed after the save at step 2 on one mesh, and continued on another."""
    with killed_after_save(monkeypatch, 2):
        run(text_folder, tmp_path, "--mesh", "fsdp=4", "--save-every", "0")
    run(text_folder, tmp_path, "--mesh", "data=2,model=2")
    assert "resuming after step 2/4" in capsys.readouterr().out

    found, expected = (results(root, "scratch-reversible") for root in (tmp_path, finished))
    for curve in CURVES:
        np.testing.assert_allclose(found[curve], expected[curve], rtol=1e-4)
    np.testing.assert_allclose(found["test_metric"], expected["test_metric"], rtol=1e-4)
    assert found["mesh"] == "data=2,model=2" and expected["mesh"] is None
    assert found["plan"]["saved_bytes"] == pytest.approx(expected["plan"]["saved_bytes"] / 2, rel=0.02)

    files = [{path.name for path in (root / "scratch-reversible").iterdir()} for root in (tmp_path, finished)]
    assert files[0] == files[1]
    weights = [bert.load_pretrained(root / "scratch-reversible")[1] for root in (tmp_path, finished)]
    np.testing.assert_allclose(
        *(tree["embeddings"]["word"]["embedding"] for tree in weights), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        ("data", "--mesh data is no mesh: 'data' is no axis: write it like data=8 or data=4,model=2"),
        ("data=0", "'data=0' is no axis"),
        ("pipeline=2", "'pipeline' is none of the axes data, fsdp, model"),
        ("data=2,data=2", "data is given twice"),
        ("data=3", "--mesh data=3 splits a batch in 3 (data), and --batch-size 4 is no multiple"),
        ("model=8", "--mesh model=8 splits a layer in 8 (model), and its 2 heads are no multiple"),
        ("data=64", "XLA_FLAGS=--xla_force_host_platform_device_count=64"),
    ],
)
def test_mistakes_end_in_one_line(mesh, message, text_folder, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        run(text_folder, tmp_path / "out", "--mesh", mesh)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line
    assert list(tmp_path.iterdir()) == []


def dry(capsys, text_folder, tmp_path, *flags):
    run(text_folder, tmp_path / "dry", "--dry-run", *flags)
    return json.loads(capsys.readouterr().out)


def test_a_dry_run_says_what_a_device_takes_and_sends(text_folder, tmp_path, capsys):
    alone = dry(capsys, text_folder, tmp_path)
    split = dry(capsys, text_folder, tmp_path, "--mesh", "fsdp=2,model=2")
    assert list(split)[: len(alone)][:-2] == list(alone)[:-2] and "collectives" not in alone
    assert split["devices"] == 4
    assert split["compiled_peak_mb"] < alone["compiled_peak_mb"]
    assert alone["floor_mb"] / 4 < split["floor_mb"] < alone["floor_mb"] / 1.9
    assert split["residual_mb"] == pytest.approx(alone["residual_mb"] / 2, rel=0.01)
    kinds = {(found["kind"], *found["axes"]) for found in split["collectives"]}
    assert {("all-gather", "fsdp"), ("all-reduce", "model")} <= kinds
    assert split["bytes_per_axis"]["fsdp"] > 0 and split["bytes_per_axis"]["model"] > 0


@pytest.mark.slow
def test_the_limit_of_a_plan_is_that_of_a_device(text_folder, tmp_path, capsys):
    flags = ("--mesh", "data=2", "--max-overhead", "inf")
    least = dry(capsys, text_folder, tmp_path, *flags)["saved_mb"] / 2 * 1e6  # of each of two layers
    limit = ("--max-bytes", str(round(1.5 * least)))
    found = dry(capsys, text_folder, tmp_path, "--mesh", "data=2", *limit)
    assert least <= found["saved_mb"] / 2 * 1e6 <= 1.5 * least


@on_tpu
def test_machines_that_are_not_here_are_compiled_for(text_folder, tmp_path, capsys):
    found = dry(capsys, text_folder, tmp_path, "--target", "v5e-16", "--mesh", "data=2,fsdp=2,model=2")
    assert (found["target"], found["devices"], found["fits"]) == ("v5e-16", 8, True)
    assert found["collectives"] and found["estimated_cycles"] > 0
    with pytest.raises(SystemExit):
        dry(capsys, text_folder, tmp_path, "--target", "v5e-16", "--mesh", "data=32")
    assert "--mesh data=32 takes 32 devices, and v5e-16 has 16" in capsys.readouterr().err
