"""Measure a run's model: quickly while it trains, then its export by the metric that was asked for."""

from collections.abc import Callable
from typing import NamedTuple

import jax

from bwsk_jax import bert
from bwsk_jax.training.evaluation import make_window_loss, pseudo_perplexity
from bwsk_jax.training.interruption import Interruption
from bwsk_jax.training.progress import TaskProgress
from bwsk_jax.training.setup import Setup

METRIC_NAMES = {"sampled": "pseudo_perplexity", "exact": "exact_pseudo_perplexity"}


class FinalMetrics(NamedTuple):
    """Perplexities of the export and, on the same tokens, of the training text's token frequencies."""

    name: str
    validation: float
    validation_unigram: float
    test: float
    test_unigram: float


def make_evaluator(setup: Setup, interruption: Interruption) -> Callable:
    """Return `evaluate(params, held_out, label) -> pseudo-perplexity`.

    A line on standard error follows what takes long. A noted `interruption` is answered between two batches.
    """
    window_loss = make_window_loss(setup.config, setup.tokenizer.mask_token_id, dtype=setup.dtype)

    def evaluate(params, held_out, label):
        with TaskProgress(label, held_out.rows) as progress:

            def report(rows):
                progress.advance(rows)
                interruption.answer(f"in the {label}")

            return pseudo_perplexity(window_loss, params, held_out, setup.recipe.batch_size, report)

    return evaluate


def final_metrics(setup: Setup, best_validation: float, interruption: Interruption) -> FinalMetrics:
    """Return the metrics of what was exported: the parameters that had `best_validation` in training."""
    _, params = bert.load_pretrained(setup.folder)
    params = jax.device_put(params)
    evaluate = make_evaluator(setup, interruption)
    name, validation = setup.options.eval_metric, best_validation
    if name == "exact":
        validation = evaluate(params, setup.final_validation, "exact validation")
    test = evaluate(params, setup.final_test, f"{name} test")
    unigrams = setup.final_validation_unigram, setup.final_test_unigram
    return FinalMetrics(METRIC_NAMES[name], validation, unigrams[0], test, unigrams[1])
