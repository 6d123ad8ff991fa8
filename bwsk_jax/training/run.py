"""One run: compile, train, test, export, report. The table of contents of training."""

import contextlib
import shlex
import sys
import time
from typing import Any

import jax
import numpy as np

from bwsk_jax import bert
from bwsk_jax.training.card import loading_snippet, write_model_card
from bwsk_jax.training.checkpoints import Checkpoints
from bwsk_jax.training.configuration import save_options
from bwsk_jax.training.event_log import EventLog, TrainingEvents
from bwsk_jax.training.interruption import Interruption
from bwsk_jax.training.loaded import show_loading
from bwsk_jax.training.loop import History, fit
from bwsk_jax.training.measuring import final_metrics, make_evaluator
from bwsk_jax.training.optimizer import learning_rate_schedule
from bwsk_jax.training.plot import plot_loss
from bwsk_jax.training.progress import Progress, duration
from bwsk_jax.training.reports import ReportsTo
from bwsk_jax.training.results import (
    RESULTS_FILE,
    classification_results,
    gather_results,
    plan_results,
    training_results,
    write_json,
)
from bwsk_jax.training.setup import Setup
from bwsk_jax.training.step import compiled_peak_bytes, initial_state


def run(setup: Setup, interruption: Interruption) -> dict[str, Any]:
    """Train `setup`'s variant, export its best parameters and return its training results.

    The variant's folder holds the best parameters so far, loadable, from the first validation on; its
    training_results.json appears when all is done. An earlier session of the same run is continued.

    Raises `OSError` where something cannot be written, as on a full disk, and `RunInterruptedError`; what was
    saved before is whole then.
    """
    started = time.perf_counter()
    setup.folder.mkdir(parents=True, exist_ok=True)
    save_options(setup)
    bert.save_tokenizer(setup.tokenizer, setup.folder)

    parameters = sum(leaf.size for leaf in jax.tree.leaves(setup.params))
    history, earlier_seconds, peak_bytes = _train(setup, interruption)
    final = final_metrics(setup, history.best, interruption)

    limits = {"max_overhead": setup.options.max_overhead, "max_bytes": setup.options.max_bytes}
    results = training_results(
        model_slug=setup.model_slug,
        variant=setup.variant,
        history=history,
        final=final,
        unigram_perplexity=setup.unigram_perplexity,
        wall_time_s=earlier_seconds + time.perf_counter() - started,
        compiled_peak_bytes=peak_bytes,
        tokens_per_step=setup.recipe.tokens_per_step,
        plan=None if setup.plan is None else plan_results(setup.plan, **limits),
        classification=_classification(setup),
        parameters=parameters,
        settings=setup.settings,
        command=shlex.join(["python", "-m", "bwsk_jax.train", *sys.argv[1:]]),
    )
    plot_loss(history, setup.unigram_perplexity, setup.variant.name, setup.folder / "loss.png")
    write_json(results, setup.folder / RESULTS_FILE)
    if setup.log_folder is not None:
        with EventLog(setup.log_folder, first=history.total_steps + 1) as log:
            log.log(history.total_steps, {f"test/{final.name}": final.test})
    gather(setup, results)
    return results


def gather(setup: Setup, results: dict[str, Any]) -> None:
    """Write what the output folder says of all its variants."""
    write_json(gather_results(setup.root, results), setup.root / "results.json")
    write_model_card(setup.root)


def _train(setup: Setup, interruption: Interruption) -> tuple[History, float, int]:
    recipe = setup.recipe
    compiled = setup.compile()
    state = initial_state(setup.params, setup.optimizer, dtype=setup.dtype)
    evaluate = make_evaluator(setup, interruption)
    with (
        interruption.noted(),
        Checkpoints(setup.folder, setup.options.save_every) as checkpoints,
        contextlib.ExitStack() as closing,
    ):
        history = History()
        if restored := checkpoints.restore(state):
            for leaf in jax.tree.leaves(state):
                leaf.delete()  # the setup still holds what no step will donate now
            state, history = restored
            print(f"resuming after step {history.total_steps}/{setup.total_steps}", flush=True)
        earlier_seconds = history.seconds
        progress = Progress(setup.total_steps, recipe.tokens_per_step, steps_before=history.total_steps)
        fit(
            compiled,
            state,
            history,
            setup.train_windows,
            recipe,
            total_steps=setup.total_steps,
            seed=setup.options.seed,
            validate=lambda state: evaluate(state.params, setup.validation, "validation"),
            keep=lambda state: bert.save_pretrained(setup.folder, setup.config, state.params),
            saves=checkpoints,
            interruption=interruption,
            progress=ReportsTo(progress, *_events(setup, history, closing)),
        )
    return history, earlier_seconds, compiled_peak_bytes(compiled)


def _classification(setup: Setup) -> dict[str, Any] | None:
    """S and K of the training computation, for the variants that look at it."""
    if not setup.variant.plans:
        return None
    shape = (setup.recipe.batch_size, setup.recipe.seq_len)
    taxonomies = ("strict", "reference")
    reports = (bert.classify_training(setup.config, *shape, setup.dtype, taxonomy) for taxonomy in taxonomies)
    return classification_results(reports)


def _beside(perplexity: float, unigram_perplexity: float) -> str:
    return f"{perplexity:.2f} (unigram frequencies: {unigram_perplexity:.2f})"


def _final_rows(results: dict[str, Any]) -> dict[str, str]:
    test = _beside(results["test_metric"], results["test_unigram_perplexity"])
    if results["metric_name"] == results["val_metric_name"]:
        return {"test pseudo-perplexity": test}
    validation = _beside(results["final_val_metric"], results["final_val_unigram_perplexity"])
    return {"exact validation": validation, "exact test": test}


def _events(setup: Setup, history: History, closing: contextlib.ExitStack) -> list[TrainingEvents]:
    if setup.log_folder is None:
        return []
    log = closing.enter_context(EventLog(setup.log_folder, first=history.total_steps + 1))
    rates = np.asarray(learning_rate_schedule(setup.peak_lr, setup.total_steps)(np.arange(setup.total_steps)))
    return [TrainingEvents(log, history, rates, setup.recipe.tokens_per_step)]


def print_summary(setup: Setup, results: dict[str, Any]) -> None:
    """Print the closing table and how to load what was exported."""
    rows = {
        "validation pseudo-perplexity": _beside(results["best_val_metric"], results["unigram_perplexity"]),
        **_final_rows(results),
        "steps": f"{results['total_steps']}{' (stopped early)' if results['early_stopped'] else ''}",
        "skipped steps": f"{results['nan_count']} (not finite)",
        "step time": f"{results['step_time_ms']:.1f} ms",
        "throughput": f"{results['tokens_per_s']:,.0f} tokens/s",
        "compiled peak": f"{results['compiled_peak_mb']:.1f} MB",
        "wall time": duration(results["wall_time_s"]),
    }
    if results["plan"]:
        plan = results["plan"]
        rows["saved per layer"] = f"{plan['saved_bytes']:,} of {plan['residual_bytes']:,} bytes"
        rows["recomputation"] = f"{plan['overhead']:.2%} of a step, {plan['inverted']} inverses"
    width = max(map(len, rows))
    print(f"\n{setup.variant.name}, {setup.model_slug}, exported to {setup.folder}")
    for name, value in rows.items():
        print(f"  {name:<{width}}  {value}")
    print(f"\n{show_loading(setup.folder, setup.tokenizer.decode(setup.validation.tokens_wt[0]))}")
    print(f"\n{loading_snippet(str(setup.root), setup.variant.name)}")
