"""SIGTERM and Ctrl-C: training ends between two steps, the test between two batches, all else at once."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from importlib.machinery import ExtensionFileLoader
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
LOADING_EXTENSIONS = (ExtensionFileLoader.create_module.__code__, ExtensionFileLoader.exec_module.__code__)
STOPPED = "outside training: stopped; the same command continues from what is saved"


class RunInterruptedError(KeyboardInterrupt):
    """A signal asked the run to end. What was saved before is whole.

    Like its base class it is not an `Exception`, so that no library handles it as a failure of its own.
    """

    def __init__(self, number: signal.Signals, said: str, *, agreed: bool = False):
        super().__init__(f"{number.name} {said}")
        self.exit_status = 128 + number
        self.agreed = agreed
        """Whether all processes of the run end with it, at the same place."""


class Interruption:
    """While entered, the first SIGTERM or SIGINT raises `RunInterruptedError`; a second one ends the process.

    While `noted` is entered too, the first signal is only recorded, in `signal`.

    There are three places in which nothing is raised until they are left. One is JAX: a process whose
    compilation was broken off crashes at its end. Another is the finalisation of an object, where Python
    ignores exceptions. The third is the import of an extension module, which would end in an `ImportError`
    instead. Outside the main thread, where Python handles no signals, nothing happens at all.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._noting = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *exception) -> None:
        self._restore()

    @property
    def number(self) -> int:
        """That of the signal, 0 if none came."""
        return self.signal or 0

    @contextlib.contextmanager
    def noted(self) -> Iterator[None]:
        """Only record a signal while inside; at the end, raise for one that nobody answered."""
        self._noting = True
        try:
            yield
        finally:
            self._noting = False
        if self.signal is not None:
            raise RunInterruptedError(self.signal, STOPPED)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        self._restore()
        if not self._noting:
            sys.setprofile(self._raise_in)
            self._raise_in(frame)

    def _raise_in(self, frame: FrameType | None, event: str = "", argument: object = None) -> None:
        """Raise if this frame may be left by an exception.

        Installed as a profiler, it sees every call and return until that is the case.
        """
        if self.signal is not None and _may_be_left(frame):
            sys.setprofile(None)
            raise RunInterruptedError(self.signal, STOPPED)

    def _restore(self) -> None:
        while self._previous:
            signal.signal(*self._previous.popitem())


def answer(number: int, where: str) -> None:
    """Raise `RunInterruptedError`, which says `where` training was, for signal `number`; not for 0."""
    if number:
        said = f"{where}: saved; the same command continues from here"
        raise RunInterruptedError(signal.Signals(number), said, agreed=True)


def _may_be_left(frame: FrameType | None) -> bool:
    """Whether an exception may leave `frame`: no caller is in one of the places that `Interruption` names.

    The import of JAX itself may be left.
    """
    while frame is not None:
        package, place = frame.f_globals.get("__name__", "").partition(".")[0], frame.f_code.co_name
        if place == "__del__" or (package in ("jax", "weakref") and place != "<module>"):
            return False
        if frame.f_code in LOADING_EXTENSIONS:
            return False
        frame = frame.f_back
    return True
