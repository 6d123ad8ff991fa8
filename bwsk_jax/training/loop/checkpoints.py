"""Everything that a run needs to go on bit for bit, written by Orbax: the latest state and the best one.

Batches, masks and dropout follow from the seed and the step, so that a checkpoint needs no more than the
training state and the history. A save blocks, because the next step overwrites the state in place, and a save
in the background would still be reading it.

Of several processes each writes its part of the arrays; the first does all else. They all see the folder.

A checkpoint holds the digests of its own files, in the format of sha256sum. They are verified before anything
else is read, so that bytes which a disk or a copy has changed cannot lead to other curves.
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
import numpy as np

from bwsk_jax.errors import UserError
from bwsk_jax.processes import from_first, is_first, is_of_runtime, wait_for_all
from bwsk_jax.training.data.cache import sha256_of
from bwsk_jax.training.loop.history import History
from bwsk_jax.training.step.train_step import TrainState

CHECKPOINT_FOLDER = "checkpoints"
DIGESTS_FILE = "SHA256SUMS"
TEMPORARY = ".tmp"
"""Ends the name of a checkpoint that is not complete yet, or no more. Orbax adds something of its own."""
SECONDS_TO_SETTLE = 2.0
"""For which the threads of a save that failed may still write."""
START_AGAIN = "remove the folder to start again"
OS_ERROR_CODE = re.compile(r"os_error_code='(\d+)'")


class RestoreError(UserError):
    """A checkpoint is needed, and none that could serve can be read."""


class SaveError(OSError):
    """A checkpoint that could not be written; those before it are whole."""


def has_checkpoint(folder: Path) -> bool:
    """Return whether the variant's `folder` holds a complete checkpoint."""
    return bool(_numbers(folder / CHECKPOINT_FOLDER))


class Checkpoints:
    """The checkpoints below a variant's `folder`, at most about `save_every` seconds of work apart.

    Opening it removes what a killed save left behind; closing it removes what a failed one left.
    """

    def __init__(self, folder: Path, save_every: float):
        self.save_every = save_every
        self._folder = (folder / CHECKPOINT_FOLDER).absolute()
        if is_first():
            self._remove_stale()
        wait_for_all("there are only whole checkpoints")
        _quieten_orbax()
        self._saved_at = time.perf_counter()
        self._save_seconds = 0.0

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception) -> None:
        if kind is not None and issubclass(kind, SaveError) and is_first():
            # Orbax raises what one of its threads met, and does not wait for the others, which write on.
            until = time.monotonic() + SECONDS_TO_SETTLE
            while time.monotonic() < until:
                self._remove_stale(ignore_errors=True)
                time.sleep(0.1)
            self._remove_stale()

    def _remove_stale(self, *, ignore_errors: bool = False) -> None:
        for stale in self._folder.glob("*tmp*"):
            shutil.rmtree(stale, ignore_errors=ignore_errors)

    @property
    def numbers(self) -> list[int]:
        """The checkpoints' names in ascending order: how many steps and validations came before each."""
        return _numbers(self._folder)

    def restore(self, like: TrainState) -> tuple[TrainState, History] | None:
        """Return the newest state that is as it was saved, and its history; None if there are no checkpoints.

        `like` has the shapes, types and placement of the state; its values are not read. Newer checkpoints,
        which are damaged, are deleted, and a line on standard error says so.

        Raises `RestoreError` if there are checkpoints but all are damaged, or if a whole one does not load.
        """
        number = from_first(self._newest_intact() if is_first() else None)
        if number is None:
            return None
        restored = self._load(number, like)
        self._saved_at = time.perf_counter()
        return restored

    def _newest_intact(self) -> int | None:
        damages = {}
        for number in reversed(self.numbers):
            if damage := self._damage(number):
                damages[number] = damage
                continue
            for damaged, damage in damages.items():
                self._delete(damaged)  # it is in the way of the steps to come
                print(
                    f"note: checkpoint {damaged} in {self._folder} is damaged ({damage}); going on from the "
                    f"one before, {number}",
                    file=sys.stderr,
                )
            return number
        if damages:
            listed = "; ".join(f"{number}: {damage}" for number, damage in damages.items())
            raise RestoreError(f"{self._folder}: all checkpoints are damaged ({listed}): {START_AGAIN}")
        return None

    def best(self, like: TrainState, history: History) -> TrainState:
        """Return, in host memory, the state of the best validation in `history`. Raises `RestoreError`."""
        number = _number_of_best(history)
        assert number is not None  # there has been a validation
        if damage := from_first(self._damage(number) if is_first() else None):
            raise RestoreError(
                f"{self._folder}: the best checkpoint is damaged ({number}: {damage}): {START_AGAIN}"
            )
        return self._load(number, jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), like))[0]

    def _damage(self, number: int) -> str | None:
        """Return what is wrong with the files of a checkpoint, None if they are those that were saved."""
        place = self._folder / str(number)
        try:
            intact = (place / DIGESTS_FILE).read_bytes() == _digests(place)
        except OSError as error:
            return error.strerror
        return None if intact else "its bytes are not those that were saved"

    def _load(self, number: int, like: TrainState) -> tuple[TrainState, History]:
        from orbax.checkpoint import v1 as ocp

        place = str(self._folder / str(number))
        try:
            metadata: Any = ocp.metadata(place).custom_metadata
            return ocp.load(place, jax.tree.map(_abstract, like)), _history(metadata["history"])
        except Exception as fault:  # whatever Orbax's many layers raise
            if is_of_runtime(fault):
                raise
            raise RestoreError(f"{place} is whole, but cannot be loaded: {_reason(fault)}") from fault

    def due(self, upcoming_seconds: float) -> bool:
        """Return whether `upcoming_seconds` more of work and then a save would exceed `save_every`."""
        unsaved = time.perf_counter() - self._saved_at
        return unsaved + upcoming_seconds + self._save_seconds >= self.save_every

    def save(self, state: TrainState, history: History) -> None:
        """Write `state` and `history`, and delete checkpoints that are neither the latest nor the best.

        Raises `SaveError` if that fails, as on a full disk.
        """
        from orbax.checkpoint import v1 as ocp

        started = time.perf_counter()
        number = history.total_steps + len(history.val_curve)
        metadata: Any = {"history": vars(history)}
        place = self._folder / str(number)
        temporary = place.with_suffix(TEMPORARY)
        try:
            if from_first(number not in self.numbers):  # else nothing has happened since it was restored
                ocp.save(str(temporary), state, custom_metadata=metadata)
                if is_first():
                    (temporary / DIGESTS_FILE).write_bytes(_digests(temporary))
                    temporary.rename(place)
            if is_first():
                for other in set(self.numbers) - {number, _number_of_best(history)}:
                    self._delete(other)
            wait_for_all("it is saved")
        except Exception as fault:  # whatever Orbax's many layers make of what the system says
            if is_of_runtime(fault):
                raise
            raise SaveError(
                f"{self._folder}: step {history.total_steps} could not be saved: {_reason(fault)}"
            ) from fault
        self._saved_at = started
        self._save_seconds = time.perf_counter() - started

    def _delete(self, number: int) -> None:
        # Under its own name, a folder that is deleted in part would look like a checkpoint.
        place = self._folder / str(number)
        shutil.rmtree(place.rename(place.with_suffix(TEMPORARY)))


def _numbers(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit())


def _number_of_best(history: History) -> int | None:
    """Return the number of the checkpoint that was saved after the best validation, None before the first."""
    for count, (step, value) in enumerate(history.val_curve, start=1):
        if value == history.best:
            return step + count
    return None


def _abstract(leaf: Any) -> Any:
    """Return what tells Orbax to load something like `leaf`, which is an array of JAX or of NumPy."""
    if isinstance(leaf, np.ndarray):
        return leaf
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _digests(folder: Path) -> bytes:
    """Return what `sha256sum` would print of the files in `folder`, but for the digests themselves."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != DIGESTS_FILE)
    return "".join(f"{sha256_of(file)}  {file.relative_to(folder)}\n" for file in files).encode()


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
    lines = str(fault).splitlines() or [type(fault).__name__]
    return os.strerror(int(code[1])) if code else lines[0][:200]


def _history(saved: dict[str, Any]) -> History:
    curves: dict[str, Any] = {
        name: [(step, value) for step, value in saved[name]] for name in ("loss_curve", "val_curve")
    }
    return History(**(saved | curves))
