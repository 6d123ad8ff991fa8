"""Several that hear of a run's steps, as one."""

from bwsk_jax.training.loop import Reports


class ReportsTo:
    """Passes everything on to each of `listeners`."""

    def __init__(self, *listeners: Reports):
        self._listeners = listeners

    def step(self, step: int, loss: float) -> None:
        """Report a step."""
        for listener in self._listeners:
            listener.step(step, loss)

    def validation(self, step: int, loss: float, value: float) -> None:
        """Report a validation."""
        for listener in self._listeners:
            listener.validation(step, loss, value)

    def flush(self) -> None:
        """Put out what was reported."""
        for listener in self._listeners:
            listener.flush()

    def close(self) -> None:
        """End training."""
        for listener in self._listeners:
            listener.close()
