import math
import resource

import numpy as np
import pytest

from bwsk_jax.training.loop.event_log import EventLog, TrainingEvents
from bwsk_jax.training.loop.history import History
from tests.support.events import read_events

RATES = np.linspace(1, 0, 10)


def session(folder, history, losses):
    """Log steps from where `history` ends, as the loop does."""
    with EventLog(folder, history.total_steps + 1) as log:
        events = TrainingEvents(log, history, RATES, tokens_per_step=100)
        for step, loss in enumerate(losses, start=history.total_steps + 1):
            if math.isfinite(loss):
                history.loss_curve.append((step, loss))
            else:
                history.skipped_steps.append(step)
            history.step_seconds.append(0.5)
            events.step(step, loss)
        events.validation(step, loss, 7.0)
        events.close()


def test_a_resumed_session_takes_the_place_of_what_was_not_saved(tmp_path):
    session(tmp_path, History(), [4.0, math.nan, 3.0, 2.5])
    session(tmp_path, History([(1, 4.0), (3, 3.0)], skipped_steps=[2]), [2.0, 1.0])
    curves = read_events(tmp_path)
    assert curves["train/loss"] == [(1, 4.0), (3, 3.0), (4, 2.0), (5, 1.0)]
    assert curves["train/skipped_steps"] == [(1, 0), (2, 1), (3, 1), (4, 1), (5, 1)]
    assert curves["train/tokens_per_s"] == [(step, 200.0) for step in range(1, 6)]
    assert [step for step, _ in curves["train/learning_rate"]] == [1, 3, 4, 5]
    np.testing.assert_allclose([rate for _, rate in curves["train/learning_rate"]], RATES[:4], rtol=1e-6)
    assert curves["validation/pseudo_perplexity"] == [(5, 7.0)]


def test_what_is_flushed_is_there_before_the_end(tmp_path):
    with EventLog(tmp_path, 1) as log:
        log.log(1, {"loss": 2.0})
        assert read_events(tmp_path) == {}
        log.flush()
        assert read_events(tmp_path) == {"loss": [(1, 2.0)]}


def test_a_full_disk_is_heard_of_and_names_the_folder(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with EventLog(tmp_path, 1) as log:
        log.log(1, {"loss": 2.0})
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
        try:
            with pytest.raises(OSError, match=f"File too large: '{tmp_path}'"):
                log.flush()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
