"""How far something is, in one line: a terminal sees it rewritten, a pipe gets a new one now and then."""

import sys
import time
from typing import TextIO

from bwsk_jax.processes import is_first

SECONDS_BETWEEN_PIPED_LINES = 10.0
SECONDS_BETWEEN_TERMINAL_LINES = 0.1
SECONDS_BEFORE_TASK_LINES = 3.0


def duration(seconds: float) -> str:
    """Return `seconds` as a clock.

    >>> duration(75), duration(3700)
    ('1:15', '1:01:40')
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class Progress:
    """A callback that prints step, loss, last validation, tokens per second and the time left.

    The times include validations, but not the `steps_before` that an earlier session took.
    """

    def __init__(
        self, total_steps: int, tokens_per_step: int, stream: TextIO | None = None, *, steps_before: int = 0
    ):
        self.total_steps = total_steps
        self.tokens_per_step = tokens_per_step
        self.stream = stream or sys.stdout
        self.steps_before = steps_before
        self._validation: float | None = None
        self._started = time.perf_counter()
        self._last_line = -float("inf")

    def step(self, step: int, loss: float) -> None:
        """Print the loss of `step` if the last line is old enough."""
        age = time.perf_counter() - self._last_line
        due = SECONDS_BETWEEN_TERMINAL_LINES if self.stream.isatty() else SECONDS_BETWEEN_PIPED_LINES
        if age >= due:
            self._print(step, loss)

    def validation(self, step: int, loss: float, value: float) -> None:
        """Print a validation."""
        self._validation = value
        self._print(step, loss)

    def flush(self) -> None:
        """Do nothing, because each line is flushed as it is printed."""

    def close(self) -> None:
        """End the line on a terminal."""
        if self.stream.isatty():
            self.stream.write("\n")

    def _print(self, step: int, loss: float) -> None:
        self._last_line = time.perf_counter()
        parts = [f"step {step}/{self.total_steps}", f"loss {loss:.4f}"]
        if self._validation is not None:
            parts.append(f"validation {self._validation:.2f}")
        if step > self.steps_before:
            per_step = (self._last_line - self._started) / (step - self.steps_before)
            parts.append(f"{self.tokens_per_step / per_step:,.0f} tokens/s")
            parts.append(f"{duration(per_step * (self.total_steps - step))} left")
        line = "  ".join(parts)
        self.stream.write(f"\r{line}\x1b[K" if self.stream.isatty() else f"{line}\n")
        self.stream.flush()


class TaskProgress:
    """Prints on standard error how far a task is and the time left, if it takes more than a few seconds.

    It is used in a `with`, at whose end the line is removed from a terminal. Of several processes only the
    first one prints.
    """

    def __init__(self, label: str, total: int, stream: TextIO | None = None):
        self.label = label
        self.total = total
        self.stream = stream or sys.stderr
        self._done = 0
        self._started = time.perf_counter()
        self._next_line = self._started + SECONDS_BEFORE_TASK_LINES
        self._printed = False

    def __enter__(self) -> "TaskProgress":
        return self

    def __exit__(self, *exception) -> None:
        if self._printed and self.stream.isatty():
            self.stream.write("\r\x1b[K")
            self.stream.flush()

    def advance(self, count: int) -> None:
        """Say that `count` more of the `total` are done."""
        self._done += count
        now = time.perf_counter()
        if now < self._next_line or not is_first():
            return
        terminal = self.stream.isatty()
        left = (now - self._started) / self._done * (self.total - self._done)
        text = f"{self.label}: {self._done / self.total:.0%}  {duration(left)} left"
        self.stream.write(f"\r{text}\x1b[K" if terminal else f"{text}\n")
        self.stream.flush()
        self._next_line = now + (SECONDS_BETWEEN_TERMINAL_LINES if terminal else SECONDS_BETWEEN_PIPED_LINES)
        self._printed = True
