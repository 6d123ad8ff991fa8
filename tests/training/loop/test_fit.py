import copy
import io
import itertools
import math
import signal

import numpy as np
import pytest

from bwsk_jax.processes import Agreement
from bwsk_jax.training.loop.fit import MAX_SKIPPED_IN_A_ROW, DivergedError, Epochs, Hooks, fit
from bwsk_jax.training.loop.history import History
from bwsk_jax.training.loop.interruption import Interruption, RunInterruptedError
from bwsk_jax.training.progress import Progress
from bwsk_jax.training.recipe import Recipe
from bwsk_jax.training.step.train_step import TrainState


class SavesInMemory:
    """A checkpointer that saves at each step in `steps`, and keeps copies of the history."""

    def __init__(self, steps=()):
        self.steps, self.saved = steps, {}
        self.step = 0

    def due(self, upcoming_seconds):
        return self.step in self.steps

    def save(self, state, history):
        self.saved[state.step] = copy.deepcopy(history)


def run(
    validations,
    *,
    total_steps=20,
    loss=None,
    kept=None,
    saves=None,
    history=None,
    seen=None,
    interruption=None,
    train_step=None,
    **recipe,
):
    """Fit a step that only counts, on 5 steps an epoch; return the history and the steps kept."""
    values, losses = iter(validations), iter(loss or itertools.repeat(1.0))
    kept = [] if kept is None else kept
    saves = saves or SavesInMemory()
    history = history or History()
    stream = io.StringIO()

    def step(state, rows, key):
        saves.step = state.step + 1
        if seen is not None:
            seen.append(rows[0, 0])
        return state._replace(step=state.step + 1), np.float32(next(losses))

    fit(
        train_step or step,
        TrainState(None, None, history.total_steps),
        history,
        Epochs(
            10,
            Recipe(batch_size=2, grad_accum=1, **recipe),
            total_steps=total_steps,
            seed=0,
        ),
        Hooks(
            validate=lambda state: next(values),
            keep=lambda state: kept.append(state.step),
            checkpointer=saves,
            interruption=interruption or Interruption(),
            agree=Agreement(),
            callback=Progress(total_steps, 8, stream, steps_before=history.total_steps),
        ),
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


def test_skipped_steps_are_counted_and_leave_the_loss_curve():
    losses = iter([1.0, math.nan, math.inf, 1.0, math.nan, *[1.0] * 5])
    history, _, _ = run([3.0] * 3, total_steps=10, loss=losses)
    assert history.skipped_steps == [2, 3, 5] and history.nan_count == 3
    assert [step for step, _ in history.loss_curve] == [1, 4, 6, 7, 8, 9, 10]
    assert history.total_steps == 10


def test_too_many_skipped_in_a_row_end_the_run_with_the_best_kept():
    kept = []
    losses = itertools.chain([1.0] * 5, itertools.repeat(math.nan))
    with pytest.raises(DivergedError, match=f"{MAX_SKIPPED_IN_A_ROW} steps in a row, up to step 30"):
        run([3.0] * 10, total_steps=100, loss=losses, kept=kept, patience=99)
    assert kept == [5]


def test_a_run_of_skipped_steps_only_ends_in_an_error():
    with pytest.raises(DivergedError, match="3 steps in a row"):
        run([3.0], total_steps=3, loss=itertools.repeat(math.nan))


def test_a_validation_that_is_not_finite_ends_the_run():
    with pytest.raises(DivergedError, match="validation is nan at step 5"):
        run([math.nan])


def test_a_state_that_is_not_finite_is_never_saved():
    def overflow(state, tokens, key):
        finite = state.step < 2
        return TrainState(np.float32(1 if finite else np.inf), None, state.step + 1), np.float32(1)

    saves = SavesInMemory(steps=range(100))
    with pytest.raises(DivergedError, match="not finite after step 3: try a smaller --lr"):
        run([], saves=saves, train_step=overflow)
    assert sorted(saves.saved) == [1, 2]


@pytest.mark.parametrize("cut", [3, 5, 7, 12, 14, 15])
def test_going_on_from_any_save_gives_the_unbroken_run(cut):
    losses, validations = [1 / step for step in range(1, 101)], [9, 8, 8, 7, 7, 8, 9]
    saves, batches = SavesInMemory([cut]), []
    whole, _, _ = run(validations, loss=losses, saves=saves, seen=batches, patience=3, total_steps=100)
    assert whole.total_steps == 35 and whole.early_stopped and set(saves.saved) >= {5, 10, 20, 35, cut}

    part, rest = saves.saved[cut], []
    assert part.total_steps == cut
    done = len(part.val_curve)
    run(validations[done:], loss=losses[cut:], history=part, seen=rest, patience=3, total_steps=100)
    assert rest == batches[cut:]
    times = {"step_seconds": [], "seconds": 0}
    assert vars(part) | times == vars(whole) | times

    ended = saves.saved[35]
    run([], loss=[], history=ended, patience=3, total_steps=100)
    assert ended.total_steps == 35


def test_an_interruption_saves_after_the_step_and_says_how_to_go_on():
    saves, interruption = SavesInMemory(), Interruption()

    def losses():
        yield from (1.0, 1.0)
        interruption.signal = signal.SIGTERM
        yield 1.0

    with pytest.raises(RunInterruptedError, match="SIGTERM at step 3: saved; the same command") as ended:
        run([], loss=losses(), saves=saves, interruption=interruption)
    assert ended.value.exit_status == 143
    assert saves.saved[3].total_steps == 3


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


def test_a_validation_that_is_cut_short_is_repeated_when_the_run_goes_on():
    def cut_short():
        yield 9
        raise RunInterruptedError(signal.SIGTERM, "in the validation")

    unbroken, _, _ = run([9, 8, 7, 6])
    saves = SavesInMemory()
    with pytest.raises(RunInterruptedError):
        run(cut_short(), saves=saves)
    resumed, kept, _ = run([8, 7, 6], history=saves.saved[10])
    assert kept == [10, 15, 20]
    assert (resumed.loss_curve, resumed.val_curve) == (unbroken.loss_curve, unbroken.val_curve)
    assert resumed.epochs_completed == unbroken.epochs_completed
