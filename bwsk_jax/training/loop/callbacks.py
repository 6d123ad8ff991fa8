"""Who is told what happens in training: progress lines, logs, and several of them as one."""

from typing import Protocol


class Callback(Protocol):
    """Hears of each step and validation, as `bwsk_jax.training.progress.Progress` does."""

    def step(self, step: int, loss: float) -> None:
        """Hear of a step, which is in the history by now; `loss` is NaN if it was skipped."""

    def validation(self, step: int, loss: float, value: float) -> None:
        """Hear of a validation after `step`, whose loss was `loss`."""

    def flush(self) -> None:
        """Write out what was heard so far: the state is about to be saved, and it will not be told again."""

    def close(self) -> None:
        """Hear that training is over."""


class Callbacks:
    """Passes everything on to each of `callbacks`, in their order."""

    def __init__(self, *callbacks: Callback):
        self._callbacks = callbacks

    def step(self, step: int, loss: float) -> None:
        """Pass on a step."""
        for callback in self._callbacks:
            callback.step(step, loss)

    def validation(self, step: int, loss: float, value: float) -> None:
        """Pass on a validation."""
        for callback in self._callbacks:
            callback.validation(step, loss, value)

    def flush(self) -> None:
        """Have each write out what it heard."""
        for callback in self._callbacks:
            callback.flush()

    def close(self) -> None:
        """Pass on that training is over."""
        for callback in self._callbacks:
            callback.close()
