"""SIGTERM and Ctrl-C as a request that training answers between two steps."""

import signal
import threading

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class TrainingInterruptedError(Exception):
    """A signal asked the run to end `where` it was ("at step 3"), with all saved that was done."""

    def __init__(self, number: signal.Signals, where: str):
        super().__init__(f"{number.name} {where}: saved; the same command continues from here")
        self.exit_status = 128 + number


class Interruption:
    """While entered, notes the first SIGTERM or SIGINT in `signal`; a second one ends the process at once.

    Outside the main thread, where Python handles no signals, it notes nothing.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *exception) -> None:
        self._restore()

    def check(self, where: str) -> None:
        """Raise `TrainingInterruptedError`, which says `where`, if a signal came."""
        if self.signal is not None:
            raise TrainingInterruptedError(self.signal, where)

    def _note(self, number: int, frame) -> None:
        self.signal = signal.Signals(number)
        self._restore()

    def _restore(self) -> None:
        while self._previous:
            signal.signal(*self._previous.popitem())
