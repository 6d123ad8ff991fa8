"""Measure a run's model: quickly during training, and its export by the metric that was asked for."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from bwsk_jax import bert
from bwsk_jax.processes import Agreement
from bwsk_jax.training.data.pretrained import MaskedLM
from bwsk_jax.training.loop.fit import DivergedError
from bwsk_jax.training.loop.history import History
from bwsk_jax.training.loop.interruption import Interruption, answer
from bwsk_jax.training.progress import TaskProgress
from bwsk_jax.training.setup import Setup
from bwsk_jax.training.step.evaluation import HeldOut, make_window_loss, pseudo_perplexity

METRIC_NAMES = {
    "packed": {"sampled": "pseudo_perplexity", "exact": "exact_pseudo_perplexity"},
    "documents": {"sampled": "document_pseudo_perplexity", "exact": "exact_document_pseudo_perplexity"},
}
"""What the results call a metric in windows of a kind."""


class FinalMetrics(NamedTuple):
    """Perplexities of the export. The unigram ones are of the training text's token frequencies."""

    name: str
    validation: float
    validation_unigram: float
    test: float
    test_unigram: float


def measure(
    model: MaskedLM,
    held_out: HeldOut,
    batch_size: int,
    dtype: Any,
    label: str,
    unmasked: tuple[int, ...] = (),
) -> float:
    """Return the pseudo-perplexity of a model that computes in `dtype`; `unmasked` ids are not predicted.

    If it takes long, a line on standard error says how far it is.
    """
    mask_id = model.tokenizer.mask_token_id
    window_loss = make_window_loss(model.config, mask_id, unmasked=unmasked, dtype=dtype)
    with TaskProgress(label, held_out.rows) as progress:
        return pseudo_perplexity(window_loss, model.params, held_out, batch_size, progress.advance)


def validate_first(setup: Setup, evaluate: Callable, params: Any, history: History) -> None:
    """Validate before the first step, so that fine-tuning shows what it began with.

    Where steps have been taken already, only a batch is measured. In both cases what validations need is
    compiled after it, so that the time left of training does not count it.
    """
    if history.total_steps:
        evaluate(params, setup.validation.first(setup.recipe.batch_size), "validation")
        return
    value = evaluate(params, setup.validation, "validation before the first step")
    history.first_validation = value if math.isfinite(value) else None
    print(f"before the first step  validation {value:.2f}", flush=True)


def make_evaluator(setup: Setup, interruption: Interruption, agree: Agreement) -> Callable:
    """Return `evaluate(params, held_out, label) -> pseudo-perplexity`.

    If it takes long, a line on standard error says how far it is. A signal that the `interruption` of any
    process recorded is answered between two batches.
    """
    window_loss = make_window_loss(
        setup.config,
        setup.mask_id,
        unmasked=setup.unmasked,
        dtype=setup.dtype,
        placement=setup.placement,
    )

    def evaluate(params, held_out, label):
        with TaskProgress(label, held_out.rows) as progress:

            def report(rows):
                progress.advance(rows)
                signal, _ = agree(interruption.number, due=False)
                answer(signal, f"in the {label}")

            return pseudo_perplexity(window_loss, params, held_out, setup.recipe.batch_size, report)

    return evaluate


def final_metrics(
    setup: Setup, best_validation: float, interruption: Interruption, agree: Agreement
) -> FinalMetrics:
    """Measure what was exported: the parameters whose validation in training was `best_validation`.

    Raises `DivergedError` if a measure is not finite.
    """
    _, params = bert.load_pretrained(setup.folder)
    params = setup.placement.placed(params)
    evaluate = make_evaluator(setup, interruption, agree)
    name, validation = setup.flags.eval_metric, best_validation
    if name == "exact":
        validation = evaluate(params, setup.final_validation, "exact validation")
    test = evaluate(params, setup.final_test, f"{name} test")
    for split, value in (("validation", validation), ("test", test)):
        if not math.isfinite(value):
            raise DivergedError(
                f"the {name} pseudo-perplexity on the {split} split is {value}: try a smaller --lr"
            )
    unigrams = setup.final_validation_unigram, setup.final_test_unigram
    return FinalMetrics(METRIC_NAMES[setup.flags.windows][name], validation, unigrams[0], test, unigrams[1])
