import os
import signal

import pytest

from bwsk_jax.training.interruption import Interruption, RunInterruptedError


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_noted_and_the_handlers_come_back(number):
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
