import contextlib
import functools
import os
import signal
import weakref
from importlib.machinery import ExtensionFileLoader

import jax
import pytest

from bwsk_jax.training.loop.interruption import Interruption, RunInterruptedError


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_noted_raises_at_the_end_and_the_handlers_come_back(number):
    before = signal.getsignal(number)
    with pytest.raises(RunInterruptedError), Interruption() as interruption, interruption.noted():
        assert interruption.signal is None
        os.kill(os.getpid(), number)
        assert interruption.signal is number
        assert signal.getsignal(number) is before, "a second signal has to end the process"
    assert signal.getsignal(number) is before


def test_handlers_come_back_without_a_signal_too():
    before = signal.getsignal(signal.SIGTERM)
    with Interruption():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_outside_of_training_a_signal_raises_what_no_library_takes_for_a_failure():
    with (
        pytest.raises(RunInterruptedError, match="SIGTERM outside training: stopped") as ended,
        Interruption(),
    ):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Exception:
            pytest.fail("swallowed")
        pytest.fail("not raised at once")
    assert ended.value.exit_status == 143


def interrupt(x=None):
    os.kill(os.getpid(), signal.SIGTERM)
    return x


class Interrupting:
    def __del__(self):
        interrupt()


def finalise():
    found = Interruption()
    weakref.finalize(found, interrupt)


class InterruptingSpec:
    origin = "absent.so"

    @functools.cached_property
    def name(self):
        return interrupt("absent")


def load_an_extension():
    """As when an extension module imports a module of Python while it is loaded."""
    with contextlib.suppress(ImportError):
        ExtensionFileLoader("absent", "absent.so").create_module(InterruptingSpec())


@pytest.mark.parametrize(
    "within", [lambda: jax.jit(interrupt)(1.0), Interrupting, finalise, load_an_extension]
)
def test_nothing_is_raised_where_it_would_be_lost_or_do_harm(within, capfd):
    with pytest.raises(RunInterruptedError) as ended, Interruption():
        try:
            within()
        finally:
            assert not capfd.readouterr().err
        pytest.fail("not raised")
    assert "interrupt" not in {entry.name for entry in ended.traceback}
