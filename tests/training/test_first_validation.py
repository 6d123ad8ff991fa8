"""A run is validated before its first step, and its time left counts no compilation."""

import sys

import pytest

from bwsk_jax.evaluate import Options, evaluate
from bwsk_jax.train import main
from bwsk_jax.training import run
from bwsk_jax.training.progress import Progress
from tests.support.runs import FLAGS, results


def test_fine_tuning_shows_what_it_began_with(finished, text_folder):
    found = results(finished, "finetune-reversible")
    began = evaluate(
        Options(
            str(finished / "scratch-conventional"),
            text_folder,
            split="validation",
            seq_len=16,
            precision="bf16",
        )
    )
    assert found["first_val_metric"] == pytest.approx(began["pseudo_perplexity"], rel=1e-3)
    assert 0 not in dict(found["val_curve"]) and len(found["loss_curve"]) == 4


def test_validations_are_compiled_before_the_clock_starts(text_folder, tmp_path, monkeypatch, capsys):
    """In a new run by the first validation, in one that goes on by a batch; not at all in a finished one."""
    happened = []
    make = run.make_evaluator

    def make_evaluator(*arguments):
        evaluate = make(*arguments)

        def noting(params, held_out, label):
            happened.append((label, held_out.rows))
            return evaluate(params, held_out, label)

        return noting

    class Clock(Progress):
        def __init__(self, *arguments, **options):
            happened.append("clock")
            super().__init__(*arguments, **options)

    monkeypatch.setattr(run, "make_evaluator", make_evaluator)
    monkeypatch.setattr(run, "Progress", Clock)
    monkeypatch.setattr(run, "final_metrics", interrupt)
    flags = ["--variant", "scratch-conventional", "--dataset", text_folder, "--out", str(tmp_path), *FLAGS]
    with pytest.raises(MemoryError):
        main(flags)
    (first, rows), *others = happened
    assert first == "validation before the first step" and others == ["clock", ("validation", rows)]
    assert "before the first step  validation " in capsys.readouterr().out

    happened.clear()
    with pytest.raises(MemoryError):
        main(flags)
    assert happened == ["clock"]


def interrupt(*_):
    raise MemoryError


# --- wandb -------------------------------------------------------------------------------------------------


class FakeWandb:
    """What the package `wandb` would be told."""

    def __init__(self):
        self.runs, self.logged, self.codes = [], [], []

    def init(self, **options):
        self.runs.append(options)
        return self

    def log(self, values, step):
        self.logged.append((step, values))

    def finish(self, exit_code):
        self.codes.append(exit_code)


def test_wandb_hears_what_tensorboard_does(text_folder, tmp_path, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "torch" else fake)
    flags = ["--variant", "scratch-conventional", "--dataset", text_folder, "--out", str(tmp_path), *FLAGS]
    main([*flags, "--wandb", "berts"])
    training, test = fake.runs
    assert training["project"] == "berts" and training["id"] == test["id"] and training["resume"] == "allow"
    assert training["config"]["dataset"] == "text" and text_folder not in str(training["config"])
    found = results(tmp_path, "scratch-conventional")
    losses = [(step, values["train/loss"]) for step, values in fake.logged if "train/loss" in values]
    assert losses == [tuple(point) for point in found["loss_curve"]]
    assert fake.logged[-1] == (4, {"test/pseudo_perplexity": found["test_metric"]})
    assert fake.codes == [0, 0]


def test_without_wandb_a_line_says_how_to_get_it(text_folder, tmp_path, capsys):
    flags = ["--variant", "scratch-conventional", "--dataset", text_folder, "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as ended:
        main([*flags, *FLAGS, "--wandb", "berts"])
    assert ended.value.code == 2 and not (tmp_path / "out").exists()
    assert "--wandb berts needs a package that is not here: pip install wandb" in capsys.readouterr().err
