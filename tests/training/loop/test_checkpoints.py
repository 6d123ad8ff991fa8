import os
import shutil
import time

import jax
import numpy as np
import pytest

from bwsk_jax.training.loop.checkpoints import CHECKPOINT_FOLDER, Checkpoints, RestoreError, has_checkpoint
from bwsk_jax.training.loop.history import History
from bwsk_jax.training.step.optimizer import make_optimizer
from bwsk_jax.training.step.placement import Placement
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
        checkpoints.save(state, before)
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
        checkpoints.save(state, history(1, (1, 9.0)))
        checkpoints.save(state, history(2, (1, 9.0), (2, 8.0)))
        checkpoints.save(state, history(3, (1, 9.0), (2, 8.0)))
        checkpoints.save(state, history(4, (1, 9.0), (2, 8.0)))
        assert checkpoints.numbers == [4, 6]
    with Checkpoints(tmp_path, 60) as checkpoints:
        assert checkpoints.numbers == [4, 6]


def test_stale_folders_go_and_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, state, capsys):
    with Checkpoints(tmp_path, 60) as checkpoints:
        checkpoints.save(state, history(1, (1, 9.0)))
        checkpoints.save(state, history(2, (1, 9.0)))
    stale = tmp_path / CHECKPOINT_FOLDER / "4.tmp.orbax-checkpoint-tmp"
    stale.mkdir()
    (tmp_path / CHECKPOINT_FOLDER / "3" / "_CHECKPOINT_METADATA").unlink()
    with Checkpoints(tmp_path, 60) as checkpoints:
        assert not stale.exists()
        _, found = checkpoints.restore(state)
        assert found.total_steps == 1 and checkpoints.numbers == [2]
    assert "note: checkpoint 3 in" in (said := capsys.readouterr().err) and "going on from" in said
    (tmp_path / CHECKPOINT_FOLDER / "2" / "_CHECKPOINT_METADATA").unlink()
    with (
        Checkpoints(tmp_path, 60) as checkpoints,
        pytest.raises(RestoreError, match="all checkpoints are damaged"),
    ):
        checkpoints.restore(state)
    assert has_checkpoint(tmp_path)


@pytest.fixture(scope="module")
def best_and_latest(tmp_path_factory):
    """A folder with the checkpoints 2, the best, and 3, the latest, whose states differ."""
    folder = tmp_path_factory.mktemp("checkpoints")
    with Checkpoints(folder, 60) as checkpoints:
        checkpoints.save(initial_state(params(1), OPTIMIZER), history(1, (1, 9.0)))
        checkpoints.save(initial_state(params(2), OPTIMIZER), history(2, (1, 9.0)))
    return folder


def flip(place, generator):
    """Change a byte, drawn from all bytes of the files in `place`; return what was done."""
    files = sorted(file for file in place.rglob("*") if file.is_file())
    sizes = np.array([file.stat().st_size for file in files])
    file = files[generator.choice(len(files), p=sizes / sizes.sum())]
    content = bytearray(file.read_bytes())
    at = generator.integers(len(content))
    content[at] ^= generator.integers(1, 256)
    file.write_bytes(content)
    return f"byte {at} of {file.relative_to(place)}"


@pytest.mark.parametrize(
    "flips", [range(4), pytest.param(range(int(os.environ.get("FLIPS", "30"))), marks=pytest.mark.slow)]
)
def test_a_flipped_byte_is_noticed_and_the_best_state_restored(best_and_latest, tmp_path, capsys, flips):
    like = initial_state(params(), OPTIMIZER)
    for seed in flips:
        folder = shutil.copytree(best_and_latest, tmp_path / str(seed))
        flipped = flip(folder / CHECKPOINT_FOLDER / "3", np.random.default_rng(seed))
        with Checkpoints(folder, 60) as checkpoints:
            restored, found = checkpoints.restore(like)
        assert found == history(1, (1, 9.0)), flipped
        jax.tree.map(np.testing.assert_array_equal, restored, initial_state(params(1), OPTIMIZER))
        assert "checkpoint 3 in" in capsys.readouterr().err


def test_the_best_state_is_found_again_and_its_damage_is_said(best_and_latest, tmp_path, state):
    folder = shutil.copytree(best_and_latest, tmp_path / "copy")
    with Checkpoints(folder, 60) as checkpoints:
        best = checkpoints.best(state, history(2, (1, 9.0)))
        expected = initial_state(params(1), OPTIMIZER)
        jax.tree.map(np.testing.assert_array_equal, best, expected)
        (folder / CHECKPOINT_FOLDER / "2" / "_CHECKPOINT_METADATA").write_text("{}")
        with pytest.raises(RestoreError, match="the best checkpoint is damaged"):
            checkpoints.best(state, history(2, (1, 9.0)))


def test_a_checkpoint_that_is_whole_but_does_not_load_is_kept(best_and_latest, tmp_path, state):
    """As where memory is short, or the model is another one."""
    folder = shutil.copytree(best_and_latest, tmp_path / "copy")
    with (
        Checkpoints(folder, 60) as checkpoints,
        pytest.raises(RestoreError, match=r"checkpoints/3 is whole, but cannot be loaded: "),
    ):
        checkpoints.restore({"other": state})
    assert checkpoints.numbers == [2, 3]


def test_saving_again_what_was_restored_keeps_it(tmp_path, state):
    """As when a validation is interrupted twice."""
    with Checkpoints(tmp_path, 60) as checkpoints:
        checkpoints.save(state, history(1))
        checkpoints.save(state, history(1))
        assert checkpoints.numbers == [1]


def test_a_save_is_due_before_too_much_would_be_lost(tmp_path):
    with Checkpoints(tmp_path, 100) as checkpoints:
        assert not checkpoints.due(90) and checkpoints.due(100)
    with Checkpoints(tmp_path, 0.05) as checkpoints:
        assert not checkpoints.due(0)
        time.sleep(0.06)
        assert checkpoints.due(0)


def test_a_step_is_saved_before_and_after_its_validation(tmp_path, state):
    with Checkpoints(tmp_path, 60) as checkpoints:
        checkpoints.save(state, history(1))
        checkpoints.save(state, history(1, (1, 9.0)))
        _, found = checkpoints.restore(state)
    assert found.val_curve == [(1, 9.0)]


def test_a_state_is_restored_onto_another_mesh(tmp_path, state):
    """From one device to four and two, and back."""
    saved = jax.tree.map(np.array, state)
    for steps, mesh in enumerate([None, "fsdp=4", "data=2,model=2", None], 1):
        like = Placement.parse(mesh).placed(initial_state(params(1), OPTIMIZER))
        with Checkpoints(tmp_path, 60) as checkpoints:
            if found := checkpoints.restore(like):
                state = found[0]
            jax.tree.map(np.testing.assert_array_equal, state, saved)
            if steps > 1:
                assert jax.tree.leaves(state)[0].sharding == jax.tree.leaves(like)[0].sharding
            checkpoints.save(state, history(steps))
