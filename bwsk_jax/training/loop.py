"""Epochs of optimizer steps, validated on the way, until the end or until nothing improves.

The host stays one step behind the device: a loss is fetched when the next step has been dispatched.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import jax
import numpy as np

from bwsk_jax.training.interruption import Interruption, RunInterruptedError
from bwsk_jax.training.recipe import Recipe
from bwsk_jax.training.step import TrainState
from bwsk_jax.training.windows import epoch_batches

MAX_SKIPPED_IN_A_ROW = 25


class DivergedError(ArithmeticError):
    """Too many skipped steps in a row, or a validation that is NaN or infinite. What was kept stays good."""


@dataclass
class History:
    """What happened. Curves are (optimizer step, value) pairs; a skipped step is not on the loss curve."""

    loss_curve: list[tuple[int, float]] = field(default_factory=list)
    skipped_steps: list[int] = field(default_factory=list)
    val_curve: list[tuple[int, float]] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)
    epochs_completed: int = 0
    early_stopped: bool = False
    since_best: int = 0
    """Validations in a row without a new best."""
    seconds: float = 0.0
    """Spent in training up to the last save, over all sessions."""

    @property
    def total_steps(self) -> int:
        """Optimizer steps, the skipped ones included."""
        return len(self.loss_curve) + len(self.skipped_steps)

    @property
    def nan_count(self) -> int:
        """Steps that were skipped because their loss or gradient was not finite."""
        return len(self.skipped_steps)

    @property
    def skipped_in_a_row(self) -> int:
        """Steps skipped since the last one that was taken."""
        return self.total_steps - (self.loss_curve[-1][0] if self.loss_curve else 0)

    @property
    def best(self) -> float:
        """The lowest validation so far; infinite before the first."""
        return min((value for _, value in self.val_curve), default=math.inf)


class Reports(Protocol):
    """Who hears of each step and validation, as `bwsk_jax.training.progress.Progress` does."""

    def step(self, step: int, loss: float) -> None:
        """Report a step, which is in the history by now; `loss` is NaN if it was skipped."""

    def validation(self, step: int, loss: float, value: float) -> None:
        """Report a validation after `step`, whose loss was `loss`."""

    def flush(self) -> None:
        """Put out what was reported: the state is about to be saved, and will not be reported again."""

    def close(self) -> None:
        """Training is over."""


class Saves(Protocol):
    """Where `fit` leaves its state, as `bwsk_jax.training.checkpoints.Checkpoints` does."""

    def due(self, upcoming_seconds: float) -> bool:
        """Return whether to save before `upcoming_seconds` more of work."""

    def save(self, state: TrainState, history: History, *, improved: bool) -> None:
        """Save; `improved` says that the last validation is the best so far."""


def steps_per_epoch(windows: int, recipe: Recipe) -> int:
    """Return the optimizer steps in one pass over `windows`; what does not fill a step is left out."""
    return windows // (recipe.batch_size * recipe.grad_accum)


def fit(
    train_step: Callable,
    state: TrainState,
    history: History,
    windows_wt: np.ndarray,
    recipe: Recipe,
    *,
    total_steps: int,
    seed: int,
    validate: Callable[[TrainState], float],
    keep: Callable[[TrainState], None],
    saves: Saves,
    interruption: Interruption,
    progress: Reports,
) -> None:
    """Take up to `total_steps` steps, those in `history` included; append what happens to `history`.

    `state`, which is donated, is that after the last step in `history`. `validate` runs every
    `recipe.validate_every` steps, at each epoch's end and after the last step; `keep` follows it when the
    value is the best so far. After `recipe.patience` validations in a row without a new best, training stops
    early. State and history are saved when due, at each new best, and at the end.

    A step whose loss is NaN counts as skipped. Raises `DivergedError` after `MAX_SKIPPED_IN_A_ROW` skipped
    steps in a row, when all were skipped, and when a validation is not finite; raises
    `RunInterruptedError`, with all saved, after the step in which the `interruption` came. `validate` may
    raise it as well; it is called again when training goes on.
    """
    key = jax.random.key(seed, impl="rbg")
    epoch_steps = steps_per_epoch(len(windows_wt), recipe)
    began = time.perf_counter() - history.seconds
    validation_seconds = 0.0
    waiting = None
    clock = time.perf_counter()

    def validates(step: int) -> bool:
        return step % recipe.validate_every == 0 or step % epoch_steps == 0 or step == total_steps

    def fetch() -> None:
        nonlocal waiting, clock
        if waiting is not None:
            loss, waiting = float(waiting), None
            step = history.total_steps + 1
            if math.isfinite(loss):
                history.loss_curve.append((step, loss))
            else:
                history.skipped_steps.append(step)
            now = time.perf_counter()
            history.step_seconds.append(now - clock)
            clock = now
            progress.step(step, loss)
            if history.skipped_in_a_row == min(MAX_SKIPPED_IN_A_ROW, total_steps):
                raise DivergedError(
                    f"loss or gradient was not finite for {history.skipped_in_a_row} steps in a row, up to "
                    f"step {step}: try a smaller --lr"
                )

    def score(step: int) -> bool:
        value = validate(state)
        if not math.isfinite(value):
            raise DivergedError(
                f"validation is {value} at step {step} ({history.nan_count} steps were skipped): "
                "try a smaller --lr"
            )
        improved = value < history.best
        history.val_curve.append((step, value))
        progress.validation(step, history.loss_curve[-1][1] if history.loss_curve else math.nan, value)
        if improved:
            keep(state)
        history.since_best = 0 if improved else history.since_best + 1
        history.early_stopped = history.since_best == recipe.patience
        return improved

    def settle(step: int) -> bool:
        """Validate if it is time, save if it is due, answer a signal; return whether training ends."""
        nonlocal validation_seconds, clock
        improved = False
        if validates(step):
            fetch()
            try:
                improved = score(step)
            except RunInterruptedError:  # the validation is repeated when the run goes on
                save(improved=False)
                raise
            validation_seconds, clock = time.perf_counter() - clock, time.perf_counter()
        ends = history.early_stopped or step == total_steps
        upcoming = max(history.step_seconds[-2:], default=0.0) + validation_seconds * validates(step + 1)
        if improved or ends or interruption.signal is not None or saves.due(upcoming):
            save(improved)
        interruption.answer(f"at step {step}")
        return ends

    def save(improved: bool) -> None:
        nonlocal clock
        fetch()
        history.seconds = time.perf_counter() - began
        progress.flush()
        saves.save(state, history, improved=improved)
        clock = time.perf_counter()

    try:
        taken = history.total_steps
        cut_short = taken > 0 and validates(taken) and taken not in dict(history.val_curve)
        if history.early_stopped or (cut_short and settle(taken)):
            return
        for step, tokens_abt in enumerate(_batches(windows_wt, recipe, seed, taken, total_steps), taken + 1):
            state, loss = train_step(state, tokens_abt, key)
            fetch()
            waiting = loss
            history.epochs_completed = step // epoch_steps
            if settle(step):
                return
    finally:
        progress.close()


def _batches(
    windows_wt: np.ndarray, recipe: Recipe, seed: int, start: int, stop: int
) -> Iterator[np.ndarray]:
    """Yield what steps `start` to `stop`, counted from 0, are to see."""
    batches: Iterator[np.ndarray] = iter(())
    for step in range(start, stop):
        epoch, step_in_epoch = divmod(step, steps_per_epoch(len(windows_wt), recipe))
        if step_in_epoch == 0 or step == start:
            batches = epoch_batches(windows_wt, recipe.grad_accum, recipe.batch_size, seed=seed, epoch=epoch)
            batches = itertools.islice(batches, step_in_epoch, None)
        yield next(batches)
