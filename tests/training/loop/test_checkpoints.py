import time

import jax
import numpy as np
import pytest

from bwsk_jax.training.loop.checkpoints import CHECKPOINT_FOLDER, Checkpoints, RestoreError, has_checkpoint
from bwsk_jax.training.loop.history import History
from bwsk_jax.training.step.optimizer import make_optimizer
from bwsk_jax.training.step.train_step import initial_state, make_train_step
from tests.support.tiny import CONFIG, MASK_ID, params, tokens

OPTIMIZER = make_optimizer(1e-3, 10)


@pytest.fixture
def state():
    return initial_state(params(), OPTIMIZER)


def history(steps, *validations):
    return History([(step, 1 / 3 + step) for step in range(1, steps + 1)], val_curve=list(validations))


def test_what_is_restored_is_what_was_saved_and_a_step_takes_it(tmp_path, state):
    step = make_train_step(CONFIG, OPTIMIZER, MASK_ID)
    batch, key = tokens(2, 3, 16), jax.random.key(0, impl="rbg")
    compiled = step.lower(state, batch, key).compile()
    state, _ = compiled(state, batch, key)
    saved = jax.tree.map(np.array, state)
    before = history(3, (2, 5.1))
    with Checkpoints(tmp_path, 60) as checkpoints:
        assert checkpoints.restore(state) is None and not has_checkpoint(tmp_path)
        checkpoints.save(state, before, improved=False)
    expected, expected_loss = compiled(state, batch, key)

    with Checkpoints(tmp_path, 60) as checkpoints:
        restored, after = checkpoints.restore(initial_state(params(1), OPTIMIZER))
    assert has_checkpoint(tmp_path) and after == before
    jax.tree.map(np.testing.assert_array_equal, restored, saved)
    continued, loss = compiled(restored, batch, key)
    assert loss == expected_loss
    jax.tree.map(np.testing.assert_array_equal, continued, expected)


def test_the_best_and_the_latest_are_kept(tmp_path, state):
    with Checkpoints(tmp_path, 60) as checkpoints:
        checkpoints.save(state, history(1, (1, 9.0)), improved=True)
        checkpoints.save(state, history(2, (1, 9.0), (2, 8.0)), improved=True)
        checkpoints.save(state, history(3, (1, 9.0), (2, 8.0)), improved=False)
        checkpoints.save(state, history(4, (1, 9.0), (2, 8.0)), improved=False)
        assert checkpoints.numbers == [4, 6]
    with Checkpoints(tmp_path, 60) as checkpoints:
        assert checkpoints.numbers == [4, 6]


def test_stale_folders_go_and_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, state):
    with Checkpoints(tmp_path, 60) as checkpoints:
        checkpoints.save(state, history(1, (1, 9.0)), improved=True)
        checkpoints.save(state, history(2, (1, 9.0)), improved=False)
    stale = tmp_path / CHECKPOINT_FOLDER / "4.orbax-checkpoint-tmp"
    stale.mkdir()
    (tmp_path / CHECKPOINT_FOLDER / "3" / "_CHECKPOINT_METADATA").unlink()
    with Checkpoints(tmp_path, 60) as checkpoints:
        assert not stale.exists()
        _, found = checkpoints.restore(state)
        assert found.total_steps == 1 and checkpoints.numbers == [2]
    (tmp_path / CHECKPOINT_FOLDER / "2" / "_CHECKPOINT_METADATA").unlink()
    with Checkpoints(tmp_path, 60) as checkpoints, pytest.raises(RestoreError, match="no checkpoint can be"):
        checkpoints.restore(state)


def test_a_save_is_due_before_too_much_would_be_lost(tmp_path):
    with Checkpoints(tmp_path, 100) as checkpoints:
        assert not checkpoints.due(90) and checkpoints.due(100)
    with Checkpoints(tmp_path, 0.05) as checkpoints:
        assert not checkpoints.due(0)
        time.sleep(0.06)
        assert checkpoints.due(0)


def test_a_step_is_saved_before_and_after_its_validation(tmp_path, state):
    with Checkpoints(tmp_path, 60) as checkpoints:
        checkpoints.save(state, history(1), improved=False)
        checkpoints.save(state, history(1, (1, 9.0)), improved=True)
        _, found = checkpoints.restore(state)
    assert found.val_curve == [(1, 9.0)]
