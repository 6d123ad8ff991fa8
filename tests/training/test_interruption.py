import os
import signal

import pytest

from bwsk_jax.training.interruption import Interruption, TrainingInterruptedError


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_noted_and_the_handlers_come_back(number):
    before = signal.getsignal(number)
    with Interruption() as interruption:
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


def test_a_check_raises_only_after_a_signal():
    with Interruption() as interruption:
        interruption.check("in a test")
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(TrainingInterruptedError, match="SIGTERM in a test: saved") as ended:
            interruption.check("in a test")
    assert ended.value.exit_status == 143
