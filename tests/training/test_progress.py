import io
import itertools

import pytest

from bwsk_jax.training import progress
from bwsk_jax.training.progress import TaskProgress


@pytest.fixture
def ten_seconds_a_call(monkeypatch):
    clock = itertools.count(0, 10)
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(clock))


def test_a_long_task_says_in_a_pipe_how_far_it_is_and_how_long_it_takes(ten_seconds_a_call):
    stream = io.StringIO()
    with TaskProgress("test", 200, stream) as task:
        task.advance(50)
        task.advance(50)
        task.advance(50)
    assert stream.getvalue() == "test: 25%  0:30 left\ntest: 50%  0:20 left\ntest: 75%  0:10 left\n"


def test_on_a_terminal_the_line_is_rewritten_and_taken_away(ten_seconds_a_call):
    stream = io.StringIO()
    stream.isatty = lambda: True
    with pytest.raises(KeyboardInterrupt), TaskProgress("test", 200, stream) as task:
        task.advance(50)
        task.advance(50)
        raise KeyboardInterrupt
    assert stream.getvalue() == "\rtest: 25%  0:30 left\x1b[K\rtest: 50%  0:20 left\x1b[K\r\x1b[K"


def test_a_short_task_says_nothing():
    stream = io.StringIO()
    stream.isatty = lambda: True
    with TaskProgress("test", 2, stream) as task:
        task.advance(1)
        task.advance(1)
    assert stream.getvalue() == ""
