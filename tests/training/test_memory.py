"""`--fit` finds the plan of least recomputation whose step keeps to the limit."""

import dataclasses
import itertools
import json

import numpy as np
import pytest

import bwsk_jax
from bwsk_jax.engine.plan.solver import GUARD_MARGIN
from bwsk_jax.targets import DoesNotFitError, FitError
from bwsk_jax.train import main
from bwsk_jax.training import memory
from bwsk_jax.training.flags import Flags
from bwsk_jax.training.memory import fit_memory
from bwsk_jax.training.recipe import Recipe
from bwsk_jax.training.setup import StepSetup
from bwsk_jax.variants import find_variant
from tests.support.runs import killed_after_save
from tests.support.tiny import CONFIG, MASK_ID


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """A search of few plans: each is an integer program, or a compilation."""
    monkeypatch.setattr(memory, "RESOLUTION", 0.4)


@pytest.fixture(scope="module")
def setup():
    return StepSetup(
        flags=Flags(variant="scratch-reversible"),
        variant=find_variant("scratch-reversible"),
        recipe=Recipe(seq_len=24, batch_size=8, grad_accum=1),
        config=dataclasses.replace(CONFIG, num_hidden_layers=6),
        mask_id=MASK_ID,
        pieces=CONFIG.vocab_size,
        unmasked=(),
        total_steps=10,
    )


@pytest.fixture(scope="module")
def plans(setup):
    """The frontier of the encoder."""
    return bwsk_jax.frontier(*setup.encoder)


@pytest.fixture
def peaks(plans, monkeypatch):
    """Saved bytes per layer -> peak of every plan on the frontier, by a model of the compiler."""
    monkeypatch.setattr(StepSetup, "peak_bytes", lambda self: 1000 + 6 * self.flags.max_bytes)
    return {plan.saved_bytes: 1000 + 6 * plan.saved_bytes for plan in plans}


def fitted(setup, limit):
    return fit_memory(dataclasses.replace(setup, flags=dataclasses.replace(setup.flags, fit=str(limit))))


@pytest.mark.slow
def test_the_next_larger_plan_does_not_fit_as_compiled(setup, monkeypatch):
    compiled = {}
    peak_bytes = StepSetup.peak_bytes
    monkeypatch.setattr(
        StepSetup,
        "peak_bytes",
        lambda self: compiled.setdefault(self.plan.saved_bytes, peak_bytes(self)),
    )
    found = fitted(setup, "1.6MB")
    saved = found.plan.saved_bytes
    larger = min(other for other, peak in compiled.items() if peak > 1_600_000)
    assert compiled[saved] <= 1_600_000 and saved < larger
    between = bwsk_jax.plan_scan(*setup.encoder, max_bytes=int(0.6 * larger))
    assert between.saved_bytes <= saved
    assert len(compiled) <= 6


@pytest.mark.slow
def test_every_limit_gets_the_largest_plan_that_fits(setup, plans, peaks, capsys):
    overheads = {plan.saved_bytes: plan.overhead for plan in plans}
    assert len(peaks) >= 4
    for (saved, peak), (_, larger_peak) in itertools.pairwise(peaks.items()):
        for limit in (peak, larger_peak - 1):
            found = fitted(setup, limit)
            assert found.flags.max_bytes >= max(saved, found.plan.saved_bytes)
            assert found.plan.overhead <= overheads[saved] + GUARD_MARGIN
            assert 1000 + 6 * found.plan.saved_bytes <= limit
        told = capsys.readouterr().err.splitlines()
        assert any(line.endswith("fits") for line in told) and any(line.endswith("too much") for line in told)
        assert len(told) <= 2 * 10


def test_where_there_is_room_nothing_is_recomputed(setup, peaks):
    found = fitted(setup, "1GB")
    assert found.plan.overhead <= 1e-6  # which the solver of integer programs cannot tell from 0
    assert found.plan.saved_bytes == max(peaks)


def test_too_little_memory_is_an_error_with_the_least_there_is(setup, peaks):
    least = min(peaks.values())
    with pytest.raises(FitError, match=f"the step takes at least {least:,}"):
        fitted(setup, least - 1)


def test_without_fit_nothing_is_looked_for(setup):
    assert fit_memory(setup) is setup


@pytest.fixture
def train(tmp_path, capsys):
    """Train with `--fit` in one folder; the lines on standard error and the recorded options."""
    generator = np.random.default_rng(0)
    for split, lines in (("train", 100), ("valid", 10), ("test", 10)):
        text = "\n".join(" ".join(generator.choice(["the", "layer", "saves"], 12)) for _ in range(lines))
        (tmp_path / f"{split}.txt").write_text(text, "utf-8")
    flags = ["--variant", "scratch-reversible", "--dataset", str(tmp_path), "--out", str(tmp_path / "out")]
    flags += ["--seq-len", "16", "--batch-size", "4", "--max-steps", "2", "--save-every", "0"]

    def run(*more):
        main([*flags, *more])
        options = tmp_path / "out" / "scratch-reversible" / "options.json"
        return capsys.readouterr(), options.is_file() and json.loads(options.read_text())

    return run


@pytest.mark.parametrize("fits", [False, True])
def test_a_step_that_the_compiler_gives_up_on_is_too_large(fits, setup, plans, monkeypatch, capsys):
    def peak_bytes(self):
        if fits and self.flags.max_bytes <= plans[1].saved_bytes:
            return 10
        raise DoesNotFitError("v5e: too much of everything")

    monkeypatch.setattr(StepSetup, "peak_bytes", peak_bytes)
    if fits:
        assert fitted(setup, "1GB").flags.max_bytes == plans[1].saved_bytes
    else:
        with pytest.raises(FitError, match="the step takes more than this machine has: give more"):
            fitted(setup, "1GB")
    assert "too much (v5e: too much of everything)" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_resumes_with_the_plan_it_began_with(train, monkeypatch, tmp_path):
    monkeypatch.setattr(StepSetup, "peak_bytes", lambda self: 1000)
    with killed_after_save(monkeypatch):
        train("--fit", "8GiB")

    def searched(*_, **__):
        raise AssertionError("the limit was looked for again")

    monkeypatch.setattr(StepSetup, "peak_bytes", searched)
    captured, options = train("--fit", "8GiB")
    assert "resuming after step 1/2" in captured.out
    assert options["fit"] == "8GiB" and options["max_bytes"] is None and options["fitted_max_bytes"] > 0
    results = json.loads((tmp_path / "out" / "scratch-reversible" / "training_results.json").read_text())
    assert results["plan"]["saved_bytes"] == results["plan"]["max_bytes"] == options["fitted_max_bytes"]

    captured, _ = train("--fit", "8GiB")
    assert "is finished" in captured.out
    with pytest.raises(SystemExit):
        train("--fit", "4GiB")


def test_what_does_not_fit_writes_nothing(train, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(StepSetup, "peak_bytes", lambda self: 4000 + self.flags.max_bytes)
    with pytest.raises(SystemExit) as ended:
        train("--fit", "1KiB")
    assert ended.value.code == 2
    *tried, error = capsys.readouterr().err.splitlines()
    assert all(line.endswith("too much") for line in tried)
    assert error.startswith("error: --fit 1KiB is 1,024 bytes, and the step takes at least ")
    assert not (tmp_path / "out").exists()
