"""A finished run goes on when it is given more steps or more patience, and only then."""

import json
import shutil

import pytest

from bwsk_jax.train import main
from tests.support.runs import FLAGS, killed_after_save, results

VARIANT = "scratch-conventional"
SHORT = FLAGS[: FLAGS.index("--max-steps")]


@pytest.fixture
def run(finished, text_folder, tmp_path, capsys):
    """Train with some flags in a copy of the finished runs, changed by a function; what was printed."""

    def train(*flags, change=lambda folder: None):
        out = tmp_path / "out"
        if not out.exists():
            shutil.copytree(finished / VARIANT, out / VARIANT)
        change(out / VARIANT)
        main(["--variant", VARIANT, "--dataset", text_folder, "--out", str(out), *SHORT, *flags])
        return capsys.readouterr(), out

    return train


def refused(run, capsys, *flags, **change):
    with pytest.raises(SystemExit) as ended:
        run(*flags, **change)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_more_steps_go_on_from_the_last_one_even_after_a_kill(run, finished, monkeypatch, capsys):
    more = ("--lr", "1e-2", "--max-steps", "6")
    with killed_after_save(monkeypatch):
        run(*more, "--save-every", "0")
    said, out = run(*more)
    assert "resuming after step 5/6" in said.out and "is finished" not in said.out
    before, after = results(finished, VARIANT), results(out, VARIANT)
    assert after["loss_curve"][:4] == before["loss_curve"] and after["total_steps"] == 6
    assert after["val_curve"][: len(before["val_curve"])] == before["val_curve"]
    assert (after["settings"]["planned_steps"], after["settings"]["extended_after"]) == (6, [4])
    assert before["settings"]["extended_after"] == []

    said, _ = run(*more)
    assert "is finished" in said.out
    assert "--max-steps was 6, now 4" in refused(run, capsys, "--lr", "1e-2", "--max-steps", "4")


def test_nothing_else_may_be_changed_on_the_way(run, capsys):
    line = refused(run, capsys, "--lr", "2e-2", "--max-steps", "6")
    assert "--max-steps was 4, now 6; --lr was 0.01, now 0.02" in line


def test_only_a_finished_run_is_given_more(run, capsys):
    unfinished = lambda folder: (folder / "training_results.json").unlink()
    line = refused(run, capsys, "--lr", "1e-2", "--max-steps", "6", change=unfinished)
    assert "holds another run: --max-steps was 4, now 6" in line


def test_a_run_that_stopped_early_needs_more_patience(run, capsys):
    def stop_early(folder):
        file = folder / "training_results.json"
        curve = {"val_curve": [[1, 2.0], *([step, 3.0] for step in range(2, 10))]}
        file.write_text(json.dumps(json.loads(file.read_text()) | curve | {"early_stopped": True}))

    line = refused(run, capsys, "--lr", "1e-2", "--max-steps", "6", change=stop_early)
    assert "stopped early at step 4, after 8 validations without a new best: give a higher --patience" in line


@pytest.mark.slow
def test_with_a_constant_rate_it_is_the_unbroken_run(text_folder, tmp_path):
    """Its loss depends on neither the number of steps nor the validation in between."""
    flags = [
        "--variant",
        VARIANT,
        "--dataset",
        text_folder,
        *SHORT,
        "--schedule",
        "constant",
        "--warmup",
        "0",
    ]
    for out, steps in (("unbroken", 9), ("extended", 5), ("extended", 9)):
        main([*flags, "--max-steps", str(steps), "--out", str(tmp_path / out)])
    unbroken, extended = (results(tmp_path / out, VARIANT) for out in ("unbroken", "extended"))
    assert extended["loss_curve"] == unbroken["loss_curve"]
    assert {tuple(point) for point in unbroken["val_curve"]} <= set(map(tuple, extended["val_curve"]))


@pytest.mark.slow
def test_more_patience_is_the_unbroken_run(text_folder, tmp_path):
    flags = [
        "--variant",
        VARIANT,
        "--dataset",
        text_folder,
        *FLAGS[:4],
        "--lr",
        "0.5",
        "--validate-every",
        "1",
    ]
    for out, patience in (("unbroken", 5), ("extended", 2), ("extended", 5)):
        main([*flags, "--max-steps", "30", "--patience", str(patience), "--out", str(tmp_path / out)])
        if (out, patience) == ("extended", 2):
            assert results(tmp_path / out, VARIANT)["early_stopped"]
    unbroken, extended = (results(tmp_path / out, VARIANT) for out in ("unbroken", "extended"))
    for key in ("loss_curve", "val_curve", "test_metric"):
        assert extended[key] == unbroken[key]
    assert extended["settings"]["extended_after"] == []
