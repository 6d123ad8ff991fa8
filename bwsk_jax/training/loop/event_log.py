"""TensorBoard events of a run.

Each session of a run writes a file of its own. The file begins with a mark that makes TensorBoard drop what
an earlier session logged of the same steps but did not save.
"""

import contextlib
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from bwsk_jax.training.loop.history import History

SECONDS_BETWEEN_FLUSHES = 5.0


class EventLog:
    """A file of events in `folder`, from the step `first` on.

    The thread that logs also writes. In a thread of tensorboardX's own, nobody would hear of a full disk.
    An `OSError` names the folder.
    """

    def __init__(self, folder: Path, first: int):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import SessionLog  # pyright: ignore[reportAttributeAccessIssue]

        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        # The suffix keeps two sessions apart that begin in the same second.
        self._writer = EventsWriter(str(folder / "events"), filename_suffix=f".{first}")
        self._write(first, session_log=SessionLog(status=SessionLog.START))
        self.flush()

    def __enter__(self) -> "EventLog":
        return self

    def __exit__(self, *exception) -> None:
        with self._named():
            self._writer.close()

    def log(self, step: int, values: dict[str, float]) -> None:
        """Log a value for each tag. It is on the disk a few seconds later, when more is logged then."""
        from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

        entries = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._write(step, summary=Summary(value=entries))
        if time.perf_counter() - self._flushed_at > SECONDS_BETWEEN_FLUSHES:
            self.flush()

    def flush(self) -> None:
        """Write everything logged so far to the disk."""
        with self._named():
            self._writer.flush()
        self._flushed_at = time.perf_counter()

    def _write(self, step: int, **content) -> None:
        from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

        with self._named():
            self._writer.write_event(Event(wall_time=time.time(), step=step, **content))

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            error.filename = str(self._folder)
            raise


class Log(Protocol):
    """Where values of a step are logged, as in `EventLog`."""

    def log(self, step: int, values: dict[str, float]) -> None:
        """Log a value for each tag."""

    def flush(self) -> None:
        """Write everything logged so far."""


class TrainingEvents:
    """A callback that writes to `log`, with what the loop's `history` knows of each step.

    `learning_rates` holds the rate of every update; a skipped step makes no update.
    """

    def __init__(self, log: Log, history: History, learning_rates: np.ndarray, tokens_per_step: int):
        self._log = log
        self._history = history
        self._learning_rates = learning_rates
        self._tokens_per_step = tokens_per_step

    def step(self, step: int, loss: float) -> None:
        """Log a step, the last in the history."""
        values = {
            "train/tokens_per_s": self._tokens_per_step / self._history.step_seconds[-1],
            "train/skipped_steps": self._history.nan_count,
        }
        if math.isfinite(loss):
            values["train/loss"] = loss
            values["train/learning_rate"] = self._learning_rates[len(self._history.loss_curve) - 1]
        self._log.log(step, values)

    def validation(self, step: int, loss: float, value: float) -> None:
        """Log the pseudo-perplexity on the validation split."""
        self._log.log(step, {"validation/pseudo_perplexity": value})

    def flush(self) -> None:
        """Write everything logged so far to the disk."""
        self._log.flush()

    close = flush
