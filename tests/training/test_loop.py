import io
import math

import numpy as np
import pytest

from bwsk_jax.training.loop import DivergedError, fit
from bwsk_jax.training.progress import Progress
from bwsk_jax.training.recipe import Recipe
from bwsk_jax.training.step import TrainState


def run(validations, *, total_steps=20, loss=1.0, **recipe):
    """Fit a step that only counts, on 5 steps an epoch; return the history and the steps kept."""
    values = iter(validations)
    kept = []
    stream = io.StringIO()
    history = fit(
        lambda state, tokens, key: (state._replace(step=state.step + 1), np.float32(loss)),
        TrainState(None, None, 0),
        np.zeros((10, 4), np.int32),
        Recipe(batch_size=2, grad_accum=1, **recipe),
        total_steps=total_steps,
        seed=0,
        validate=lambda state: next(values),
        keep=lambda state: kept.append(state.step),
        progress=Progress(total_steps, 8, stream),
    )
    return history, kept, stream.getvalue()


def test_validates_at_each_epochs_end_every_so_often_and_at_the_last_step():
    history, kept, _ = run(range(20, 0, -1), total_steps=12, validate_every=4)
    assert [step for step, _ in history.val_curve] == [4, 5, 8, 10, 12]
    assert kept == [4, 5, 8, 10, 12]
    assert [step for step, _ in history.loss_curve] == list(range(1, 13))
    assert history.epochs_completed == 2 and not history.early_stopped


def test_stops_after_patience_and_keeps_the_best():
    history, kept, _ = run([9, 7, 8, 7, 6.5, 7, 7, 7, 1], total_steps=100, patience=3)
    assert kept == [5, 10, 25]
    assert history.best == 6.5
    assert history.early_stopped and history.total_steps == 40 and history.epochs_completed == 8


def test_nan_losses_are_counted_and_nan_validation_ends_the_run():
    history, _, _ = run([3.0] * 3, total_steps=10, loss=math.nan)
    assert history.nan_count == 10
    with pytest.raises(DivergedError, match="validation is nan at step 5"):
        run([math.nan])


def test_a_pipe_gets_whole_lines_a_terminal_one_line():
    *_, piped = run(range(20, 0, -1))
    assert "\r" not in piped and piped.count("\n") == len(piped.splitlines()) == 5
    assert piped.splitlines()[-1].startswith("step 20/20  loss 1.0000  validation 17.00  ")

    terminal = io.StringIO()
    terminal.isatty = lambda: True
    progress = Progress(2, 8, terminal)
    progress.validation(1, 1.0, 2.0)
    progress.validation(2, 1.0, 2.0)
    progress.close()
    assert terminal.getvalue().count("\r") == 2 and terminal.getvalue().count("\n") == 1
