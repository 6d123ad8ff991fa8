"""Everything that a run needs to go on bit for bit, kept by Orbax: the latest state and the best one.

Batches, masks and dropout follow from the seed and the step, so that a checkpoint needs no more than the
training state and the history. A save blocks, because the next step overwrites the state in place, and a save
in the background would still be reading it.
"""

import functools
import logging
import os
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import jax

from bwsk_jax.errors import UserError
from bwsk_jax.training.loop.history import History
from bwsk_jax.training.step.train_step import TrainState

CHECKPOINT_FOLDER = "checkpoints"
METRIC = "validation"
OS_ERROR_CODE = re.compile(r"os_error_code='(\d+)'")


class RestoreError(UserError):
    """There are checkpoints, but none can be read."""


class SaveError(OSError):
    """A checkpoint that could not be written; those before it are whole."""


def has_checkpoint(folder: Path) -> bool:
    """Return whether the variant's `folder` holds a complete checkpoint."""
    return any(path.name.isdigit() for path in (folder / CHECKPOINT_FOLDER).glob("*"))


class Checkpoints:
    """The checkpoints below a variant's `folder`, at most about `save_every` seconds of work apart.

    Opening it removes what a killed save left behind; closing it removes what a failed one left.
    """

    def __init__(self, folder: Path, save_every: float):
        from orbax.checkpoint import v1 as ocp

        self._folder = folder / CHECKPOINT_FOLDER
        self._remove_stale()  # Orbax's own cleanup may still be at it when its constructor returns
        _quieten_orbax()
        policies = ocp.training.preservation_policies
        best = policies.BestN(
            get_metric_fn=lambda metrics: metrics[METRIC],
            reverse=True,
            n=1,
            keep_checkpoints_without_metrics=False,
        )
        self.save_every = save_every
        # Orbax's own policies do not match the annotations of its constructor.
        keywords: dict[str, Any] = {
            "save_decision_policy": ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            "preservation_policy": policies.AnyPreservationPolicy([policies.LatestN(1), best]),
        }
        self._orbax = ocp.training.Checkpointer(str(self._folder.absolute()), **keywords)
        self._saved_at = time.perf_counter()
        self._save_seconds = 0.0

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception) -> None:
        save_failed = kind is not None and issubclass(kind, SaveError)
        try:
            self._orbax.close()
        except Exception:  # Orbax often repeats why the last save failed, which has been raised before
            if not save_failed:
                raise
        if save_failed:
            self._remove_stale()

    def _remove_stale(self) -> None:
        for stale in self._folder.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(stale)

    @property
    def numbers(self) -> list[int]:
        """The checkpoints' names in ascending order: how many steps and validations came before each."""
        return [checkpoint.step for checkpoint in self._orbax.checkpoints]

    def restore(self, like: TrainState) -> tuple[TrainState, History] | None:
        """Return the newest state that can be read, and its history; None if there are no checkpoints.

        `like` has the shapes, types and placement of the state; its values are not read.
        Raises `RestoreError` if there are checkpoints but none can be read.
        """
        abstract = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), like
        )
        faults = []
        for number in reversed(self.numbers):
            try:
                metadata: Any = self._orbax.metadata(number).custom_metadata
                history = _history(metadata["history"])
                state = self._orbax.load(number, abstract)
            except Exception as fault:  # whatever a damaged file makes of Orbax's many layers
                faults.append(f"{number}: {str(fault).splitlines()[0][:200]}")
                continue
            for newer in self.numbers:
                if newer > number:  # unreadable, and in the way of the steps to come
                    self._orbax.delete(newer)
            self._saved_at = time.perf_counter()
            return state, history
        if faults:
            raise RestoreError(
                f"{self._orbax.directory}: no checkpoint can be read ({'; '.join(faults)}): "
                "remove the folder to start again"
            )
        return None

    def due(self, upcoming_seconds: float) -> bool:
        """Return whether `upcoming_seconds` more of work and then a save would exceed `save_every`."""
        unsaved = time.perf_counter() - self._saved_at
        return unsaved + upcoming_seconds + self._save_seconds >= self.save_every

    def save(self, state: TrainState, history: History, *, improved: bool) -> None:
        """Write `state` and `history`, and delete checkpoints that are neither the latest nor the best.

        Raises `SaveError` if that fails, as on a full disk. Nothing more can be saved then.
        """
        started = time.perf_counter()
        try:
            saved = self._orbax.save(
                history.total_steps + len(history.val_curve),
                state,
                force=True,
                metrics={METRIC: history.best} if improved else None,
                custom_metadata={"history": vars(history)},
            )
        except Exception as fault:  # whatever Orbax's many layers make of what the system says
            raise SaveError(
                f"{self._folder}: step {history.total_steps} could not be saved: {_reason(fault)}"
            ) from fault
        if not saved:
            raise RuntimeError(f"Orbax declined to save step {history.total_steps}")
        self._saved_at = started
        self._save_seconds = time.perf_counter() - started


@functools.cache
def _quieten_orbax() -> None:
    """Leave it to the exception of a failed save to say so, in one line.

    Orbax also logs the failure once per thread. Besides, it closes its event loop while other arrays are
    still being written, and each of these then complains that the loop is closed.
    """
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    hook = sys.unraisablehook

    def without_closed_loops(unraisable) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            hook(unraisable)

    sys.unraisablehook = without_closed_loops


def _reason(fault: Exception) -> str:
    if isinstance(fault, OSError) and fault.strerror:
        return fault.strerror
    code = OS_ERROR_CODE.search(str(fault))
    return os.strerror(int(code[1])) if code else str(fault).splitlines()[0][:200]


def _history(saved: dict[str, Any]) -> History:
    curves: dict[str, Any] = {
        name: [(step, value) for step, value in saved[name]] for name in ("loss_curve", "val_curve")
    }
    return History(**(saved | curves))
