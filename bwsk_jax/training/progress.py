"""One line that says how far something is: rewritten on a terminal, repeated now and then in a pipe."""

import sys
import time
from typing import TextIO

SECONDS_BETWEEN_PIPED_LINES = 10.0
SECONDS_BETWEEN_TERMINAL_LINES = 0.1
SECONDS_BEFORE_TOKEN_LINES = 1.0


def duration(seconds: float) -> str:
    """Return `seconds` as a clock.

    >>> duration(75), duration(3700)
    ('1:15', '1:01:40')
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class Progress:
    """Prints step, loss, last validation, tokens per second and the time left, validations included.

    `steps_before` were taken by an earlier session and do not count in the times.
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
        """Report `step`'s loss; prints when the last line is old enough."""
        age = time.perf_counter() - self._last_line
        due = SECONDS_BETWEEN_TERMINAL_LINES if self.stream.isatty() else SECONDS_BETWEEN_PIPED_LINES
        if age >= due:
            self._print(step, loss)

    def validation(self, step: int, loss: float, value: float) -> None:
        """Report a validation; always prints."""
        self._validation = value
        self._print(step, loss)

    def flush(self) -> None:
        """Do nothing: each line is put out as it is printed."""

    def close(self) -> None:
        """End the line on a terminal."""
        if self.stream.isatty():
            self.stream.write("\n")

    def _print(self, step: int, loss: float) -> None:
        self._last_line = time.perf_counter()
        per_step = (self._last_line - self._started) / (step - self.steps_before)
        parts = [f"step {step}/{self.total_steps}", f"loss {loss:.4f}"]
        if self._validation is not None:
            parts.append(f"validation {self._validation:.2f}")
        parts.append(f"{self.tokens_per_step / per_step:,.0f} tokens/s")
        parts.append(f"{duration(per_step * (self.total_steps - step))} left")
        line = "  ".join(parts)
        self.stream.write(f"\r{line}\x1b[K" if self.stream.isatty() else f"{line}\n")
        self.stream.flush()


class TokenProgress:
    """Prints on standard error how much of a text is tokenised; nothing when that takes a second or less."""

    def __init__(self, label: str, total_lines: int, stream: TextIO | None = None):
        self.label = label
        self.total_lines = total_lines
        self.stream = stream or sys.stderr
        self._lines = self._tokens = 0
        self._started = time.perf_counter()
        self._next_line = self._started + SECONDS_BEFORE_TOKEN_LINES
        self._printed = False

    def advance(self, lines: int, tokens: int) -> None:
        """Report `lines` more that gave `tokens`."""
        self._lines += lines
        self._tokens += tokens
        now = time.perf_counter()
        if now < self._next_line:
            return
        terminal = self.stream.isatty()
        rate = self._tokens / (now - self._started)
        text = f"tokenising {self.label}: {self._lines / self.total_lines:.0%}  {rate:,.0f} tokens/s"
        self.stream.write(f"\r{text}\x1b[K" if terminal else f"{text}\n")
        self.stream.flush()
        self._next_line = now + (SECONDS_BETWEEN_TERMINAL_LINES if terminal else SECONDS_BETWEEN_PIPED_LINES)
        self._printed = True

    def close(self) -> None:
        """Take the line off a terminal."""
        if self._printed and self.stream.isatty():
            self.stream.write("\r\x1b[K")
