"""A measure of the export that is not finite ends the run in words."""

import math

import pytest

from bwsk_jax.training.loop.fit import DivergedError
from bwsk_jax.training.report import metrics
from bwsk_jax.training.step.placement import ONE_DEVICE


def test_a_test_that_is_not_finite_is_said(monkeypatch):
    class FakeSetup:
        folder = final_test = None
        flags = type("Flags", (), {"eval_metric": "sampled"})
        placement = ONE_DEVICE

    monkeypatch.setattr(metrics.bert, "load_pretrained", lambda folder: (None, 0.0))
    monkeypatch.setattr(metrics, "make_evaluator", lambda *_: lambda *_: math.inf)
    with pytest.raises(
        DivergedError, match="sampled pseudo-perplexity on the test split is inf: try a small"
    ):
        metrics.final_metrics(FakeSetup(), 3.0, None, None)
