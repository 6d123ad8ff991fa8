"""One run: compile, train, test, export, report. The table of contents of training."""

import contextlib
import functools
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from bwsk_jax import bert
from bwsk_jax.locking import locked
from bwsk_jax.processes import Agreement, from_first, gathered, is_first, wait_for_all
from bwsk_jax.training.loop.callbacks import Callbacks
from bwsk_jax.training.loop.checkpoints import Checkpoints
from bwsk_jax.training.loop.event_log import EventLog, TrainingEvents
from bwsk_jax.training.loop.fit import Epochs, Hooks, fit
from bwsk_jax.training.loop.history import History
from bwsk_jax.training.loop.interruption import Interruption
from bwsk_jax.training.loop.wandb_log import WandbLog
from bwsk_jax.training.progress import Progress
from bwsk_jax.training.report.card import CARD_FILE, PLACE, write_model_card
from bwsk_jax.training.report.export import link_best, remove_copies
from bwsk_jax.training.report.metrics import FinalMetrics, final_metrics, make_evaluator, validate_first
from bwsk_jax.training.report.origin import origin
from bwsk_jax.training.report.push import push, repository_of
from bwsk_jax.training.report.results import (
    GATHERED_FILE,
    RESULTS_FILE,
    Outcome,
    gather_results,
    plot_loss,
    run_settings,
    training_results,
    write_json,
)
from bwsk_jax.training.resume import save_flags
from bwsk_jax.training.setup import Setup
from bwsk_jax.training.step.optimizer import learning_rate_schedule
from bwsk_jax.training.step.train_step import TrainState, initial_state
from bwsk_jax.writing import copy_files, remove_leftovers

# Two variants may be trained side by side; what one of them gathers takes less than a second.
SECONDS_TO_GATHER = 30.0


def run(setup: Setup, interruption: Interruption) -> dict[str, Any]:
    """Train `setup`'s variant, export its best parameters and return its training results.

    From the first validation on, the variant's folder holds the best parameters so far, ready to be loaded.
    Its training_results.json appears when all is done. If an earlier session began the run, it goes on.

    Of several processes, each of which has to call this, the first writes.

    Raises `InUseError` if another run does the same. Raises `OSError` if something cannot be written, as on a
    full disk, and `RunInterruptedError`; what was saved before is whole in both cases.
    """
    started = time.perf_counter()
    with contextlib.ExitStack() as held:
        if is_first():
            setup.folder.mkdir(parents=True, exist_ok=True)
            remove_copies(setup.root)  # before the variant's files become others
            held.enter_context(locked(setup.folder))
            _begin(setup)
        wait_for_all("the folder is there")
        agree = Agreement()
        history, earlier_seconds, peak_bytes = _train(setup, interruption, agree)
        wait_for_all("the best model is exported")
        with interruption.noted():
            final = final_metrics(setup, history.best, interruption, agree)
        outcome = Outcome(history, final, peak_bytes, earlier_seconds + time.perf_counter() - started)
        results = training_results(setup, outcome)
        if is_first():
            _end(setup, history, final, results)
    gather(setup, results)
    return results


def _begin(setup: Setup) -> None:
    remove_leftovers(setup.folder)
    save_flags(setup)
    bert.save_tokenizer(setup.tokenizer, setup.folder)
    copy_files(setup.sentence_files, setup.folder)


def _end(setup: Setup, history: History, final: FinalMetrics, results: dict[str, Any]) -> None:
    plot_loss(history, setup.unigram_perplexity, setup.variant.name, setup.folder / "loss.png")
    write_json(results, setup.folder / RESULTS_FILE)
    for log in _logs(setup, history, history.total_steps + 1):
        with log:
            log.log(history.total_steps, {f"test/{final.name}": final.test})


def publish(setup: Setup, results: dict[str, Any], name: str) -> None:
    """Upload what the output folder has to offer to the Hub's repository called `name`.

    Of several processes the first does it. Raises `PushError`.
    """
    if not is_first():
        return
    repository = repository_of(name)
    gather(setup, results, repository)
    print(f"pushed to the Hub: {push(setup.root, repository)}")


def gather(setup: Setup, results: dict[str, Any], repository: str | None = None) -> None:
    """Write what the output folder says of all its variants, and of the `repository` that they are in.

    A license or language that is given for a run that was finished before goes into its results. Of several
    processes the first does it.
    """
    if not is_first():
        return
    if (setup.flags.license or setup.flags.language) and results["origin"] != origin(setup):
        results["origin"] = origin(setup)
        write_json(results, setup.folder / RESULTS_FILE)
    with locked(setup.root, SECONDS_TO_GATHER):
        remove_leftovers(setup.root, GATHERED_FILE)
        remove_leftovers(setup.root, CARD_FILE)
        write_json(gather_results(setup.root, results, repository), setup.root / GATHERED_FILE)
        best = link_best(setup.root, results)
        write_model_card(setup.root, repository or PLACE, best)


def _train(setup: Setup, interruption: Interruption, agree: Agreement) -> tuple[History, float, int]:
    """Return the history, the seconds of it that earlier sessions spent, and the step's compiled peak."""
    program, placement = setup.compile(), setup.placement
    state = _first_state(setup)
    evaluate = make_evaluator(setup, interruption, agree)

    def export(state: TrainState) -> None:
        params = gathered(state.params)
        if is_first():
            bert.save_pretrained(setup.folder, setup.config, params, setup.pooler)

    def train_step(state: TrainState, rows_ab: np.ndarray, key: jax.Array) -> tuple[TrainState, jax.Array]:
        return program.compiled(state, placement.placed_windows(setup.train_windows, rows_ab), key)

    with (
        interruption.noted(),
        Checkpoints(setup.folder, setup.flags.save_every) as checkpoints,
        contextlib.ExitStack() as closing,
    ):
        history = History()
        if restored := checkpoints.restore(state):
            for leaf in jax.tree.leaves(state):
                leaf.delete()  # `setup` refers to these arrays, and now no step will donate them
            state, history = restored
            if history.val_curve and not from_first(is_first() and bert.holds_model(setup.folder)):
                best = checkpoints.best(state, history)
                export(best)
                if is_first():
                    print(
                        f"note: the model in {setup.folder} was gone; it is exported again", file=sys.stderr
                    )
            print(f"resuming after step {history.total_steps}/{setup.total_steps}", flush=True)
        history.go_on(setup.total_steps, setup.recipe.patience)
        earlier_seconds = history.seconds
        if not history.early_stopped and history.total_steps < setup.total_steps:
            validate_first(setup, evaluate, state.params, history)
        tokens_per_step = setup.recipe.tokens_per_step
        progress = Progress(setup.total_steps, tokens_per_step, steps_before=history.total_steps)
        hooks = Hooks(
            validate=lambda state: evaluate(state.params, setup.validation, "validation"),
            keep=export,
            checkpointer=checkpoints,
            interruption=interruption,
            agree=agree,
            callback=Callbacks(progress, *_events(setup, history, closing)),
        )
        epochs = Epochs(len(setup.train_windows), setup.recipe, setup.total_steps, setup.flags.seed)
        fit(train_step, state, history, epochs, hooks)
    return history, earlier_seconds, program.peak_bytes


def _first_state(setup: Setup) -> TrainState:
    """Return the state before the first step. Without a mesh it takes over the parameters of `setup`."""
    make = functools.partial(initial_state, optimizer=setup.optimizer, dtype=setup.dtype)
    return setup.placement.made(make, setup.placement.placed(setup.params))


def _events(setup: Setup, history: History, closing: contextlib.ExitStack) -> list[TrainingEvents]:
    """Return a callback for each log that is wanted; `closing` closes the logs."""
    logs = [closing.enter_context(log) for log in _logs(setup, history, history.total_steps + 1)]
    schedule = learning_rate_schedule(setup.peak_lr, setup.total_steps, setup.recipe)
    rates = np.asarray(schedule(np.arange(setup.total_steps)))
    return [TrainingEvents(log, history, rates, setup.recipe.tokens_per_step) for log in logs]


def _logs(setup: Setup, history: History, first: int) -> Iterator[EventLog | WandbLog]:
    """Yield the logs that the first process is to keep: TensorBoard's, from step `first` on, and wandb's."""
    if not is_first():
        return
    if setup.log_folder is not None:
        yield EventLog(setup.log_folder, first)
    if setup.flags.wandb is not None:
        yield WandbLog(setup.flags.wandb, setup.folder, run_settings(setup, history))
