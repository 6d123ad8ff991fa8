"""Epochs of optimizer steps, validated on the way, until the last step or until nothing improves.

The host stays one step behind the device: a loss is fetched when the next step has been dispatched.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import jax
import numpy as np

from bwsk_jax.processes import Agreement
from bwsk_jax.training.data.windows import epoch_rows, steps_per_epoch
from bwsk_jax.training.loop.callbacks import Callback
from bwsk_jax.training.loop.history import History
from bwsk_jax.training.loop.interruption import Interruption, RunInterruptedError, answer
from bwsk_jax.training.recipe import Recipe
from bwsk_jax.training.step.train_step import TrainState, all_finite

MAX_SKIPPED_IN_A_ROW = 25


class DivergedError(ArithmeticError):
    """Too many steps were skipped, or a validation or the state is not finite. What was saved stays good."""


class Checkpointer(Protocol):
    """Where training saves its state, as in `bwsk_jax.training.loop.checkpoints.Checkpoints`."""

    def due(self, upcoming_seconds: float) -> bool:
        """Return whether to save before `upcoming_seconds` more of work."""
        ...

    def save(self, state: TrainState, history: History) -> None:
        """Save, and keep the state of the best validation as well."""


@dataclass(frozen=True)
class Epochs:
    """Which windows each step sees, and after which steps the model is validated.

    Steps count from 1. There are `total_steps`, unless training stops early.
    """

    windows: int
    recipe: Recipe
    total_steps: int
    seed: int

    @property
    def length(self) -> int:
        """The steps of an epoch."""
        return steps_per_epoch(self.windows, self.recipe)

    def validated(self, step: int) -> bool:
        """Whether the model is validated after `step`: every so often, at an epoch's end, and at the last."""
        return step % self.recipe.validate_every == 0 or step % self.length == 0 or step == self.total_steps

    def rows_after(self, taken: int) -> Iterator[np.ndarray]:
        """Yield the numbers [A, B] of the windows that the steps see which follow the first `taken` ones."""
        rows: Iterator[np.ndarray] = iter(())
        for step in range(taken, self.total_steps):
            epoch, step_in_epoch = divmod(step, self.length)
            if step_in_epoch == 0 or step == taken:
                per_step = self.recipe.grad_accum, self.recipe.batch_size
                rows = epoch_rows(self.windows, *per_step, seed=self.seed, epoch=epoch)
                rows = itertools.islice(rows, step_in_epoch, None)
            yield next(rows)


@dataclass(frozen=True)
class Hooks:
    """What training does besides taking steps."""

    validate: Callable[[TrainState], float]
    """Measures the model; it may raise `RunInterruptedError`, and is called again when the run goes on."""
    keep: Callable[[TrainState], None]
    """Keeps the model, which is the best so far."""
    checkpointer: Checkpointer
    interruption: Interruption
    agree: Agreement
    callback: Callback


def fit(train_step: Callable, state: TrainState, history: History, epochs: Epochs, hooks: Hooks) -> None:
    """Take the steps of `epochs` that `history` does not have yet; append what happens to `history`.

    `train_step(state, rows_ab, key) -> (state, loss)` gets the numbers of its windows. `state` is the state
    after the last step in `history`; the first step to come donates it.

    The model is validated when `epochs` says so, and kept when it is the best so far. After
    `Recipe.patience` validations in a row without a new best, training stops early. State and history are
    saved when that is due, at each new best, and at the end.

    A step whose loss is NaN counts as skipped. Raises `DivergedError` if all steps or `MAX_SKIPPED_IN_A_ROW`
    in a row are skipped, and if a validation or a state that is to be saved is not finite. Raises
    `RunInterruptedError`, with all saved, after the step during which a signal came.
    """
    try:
        _Fit(train_step, state, history, epochs, hooks).run()
    finally:
        hooks.callback.close()


class _Fit:
    """The loop of `fit`: its state is that after the last step which was dispatched."""

    def __init__(
        self, train_step: Callable, state: TrainState, history: History, epochs: Epochs, hooks: Hooks
    ):
        self._train_step = train_step
        self._state = state
        self._history = history
        self._epochs = epochs
        self._hooks = hooks
        self._loss_on_device: jax.Array | None = None
        """The loss of the last step, until it is fetched."""
        self._validation_seconds = 0.0
        self._clock = time.perf_counter()
        """When the step that is under way began."""
        self._began = self._clock - history.seconds

    def run(self) -> None:
        """Train until the last step, or until training stops early."""
        taken = self._history.total_steps
        if self._history.early_stopped or (self._was_cut_short(taken) and self._settle(taken)):
            return
        key = jax.random.key(self._epochs.seed, impl="rbg")
        for step, rows_ab in enumerate(self._epochs.rows_after(taken), start=taken + 1):
            self._state, loss = self._train_step(self._state, rows_ab, key)
            self._fetch()
            self._loss_on_device = loss
            self._history.epochs_completed = step // self._epochs.length
            if self._settle(step):
                return

    def _was_cut_short(self, taken: int) -> bool:
        """Whether the run was interrupted in the validation that follows the last step taken."""
        return taken > 0 and self._epochs.validated(taken) and taken not in dict(self._history.val_curve)

    def _settle(self, step: int) -> bool:
        """Validate if it is time, save if it is due, answer a signal; return whether training ends."""
        improved = self._validate(step) if self._epochs.validated(step) else False
        ends = self._history.early_stopped or step == self._epochs.total_steps
        upcoming = max(self._history.step_seconds[-2:], default=0.0)
        if self._epochs.validated(step + 1):
            upcoming += self._validation_seconds
        hooks = self._hooks
        signal, due = hooks.agree(hooks.interruption.number, hooks.checkpointer.due(upcoming))
        if improved or ends or signal or due:
            self._save()
            signal, _ = hooks.agree(hooks.interruption.number, due=False)  # one that came meanwhile
        answer(signal, f"at step {step}")
        return ends

    def _validate(self, step: int) -> bool:
        """Validate after `step`, and return whether the model is the best so far."""
        self._fetch()
        try:
            improved = self._score(step)
        except RunInterruptedError:  # the validation is repeated when the run goes on
            self._save()
            raise
        now = time.perf_counter()
        self._validation_seconds, self._clock = now - self._clock, now
        return improved

    def _score(self, step: int) -> bool:
        history, value = self._history, self._hooks.validate(self._state)
        if not math.isfinite(value):
            raise DivergedError(
                f"validation is {value} at step {step} ({history.nan_count} steps were skipped): "
                "try a smaller --lr"
            )
        improved = value < history.best
        history.val_curve.append((step, value))
        loss = history.loss_curve[-1][1] if history.loss_curve else math.nan
        self._hooks.callback.validation(step, loss, value)
        if improved:
            self._hooks.keep(self._state)
        history.since_best = 0 if improved else history.since_best + 1
        history.early_stopped = history.since_best == self._epochs.recipe.patience
        return improved

    def _fetch(self) -> None:
        """Fetch the loss of the last step, if that has not been done, and put the step into the history."""
        if self._loss_on_device is None:
            return
        loss, self._loss_on_device = float(self._loss_on_device), None
        history = self._history
        step = history.total_steps + 1
        if math.isfinite(loss):
            history.loss_curve.append((step, loss))
        else:
            history.skipped_steps.append(step)
        now = time.perf_counter()
        history.step_seconds.append(now - self._clock)
        self._clock = now
        self._hooks.callback.step(step, loss)
        if history.skipped_in_a_row == min(MAX_SKIPPED_IN_A_ROW, self._epochs.total_steps):
            raise DivergedError(
                f"loss or gradient was not finite for {history.skipped_in_a_row} steps in a row, up to "
                f"step {step}: try a smaller --lr"
            )

    def _save(self) -> None:
        self._fetch()
        if not all_finite(self._state):
            raise DivergedError(
                f"parameters or optimizer are not finite after step {self._history.total_steps}: "
                "try a smaller --lr"
            )
        self._history.seconds = time.perf_counter() - self._began
        self._hooks.callback.flush()
        self._hooks.checkpointer.save(self._state, self._history)
        self._clock = time.perf_counter()
