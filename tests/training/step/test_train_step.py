import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bwsk_jax
from bwsk_jax.engine.program.platform import traced_for
from bwsk_jax.training.step import train_step
from bwsk_jax.training.step.evaluation import evaluation_set, make_window_loss, pseudo_perplexity
from bwsk_jax.training.step.optimizer import make_optimizer
from bwsk_jax.training.step.train_step import initial_state, make_train_step
from tests.support.tiny import CONFIG, MASK_ID, WITHOUT_DROPOUT, params, tokens

KEY = jax.random.key(7, impl="rbg")


def take_steps(config, batches, *, optimizer=None, **options):
    optimizer = optimizer or make_optimizer(1e-3, 10)
    step = make_train_step(config, optimizer, MASK_ID, **options)
    state = initial_state(params(), optimizer, dtype=options.get("dtype", jnp.float32))
    losses = []
    for batch in batches:
        state, loss = step(state, batch, KEY)
        losses.append(float(loss))
    return state, losses


def five_batches(micro_batches):
    return [tokens(micro_batches, 3, 16, seed=seed) for seed in range(5)]


@functools.cache
def plain_steps(micro_batches):
    """The state and the losses of five steps in float32 with `jax.lax.scan`."""
    return take_steps(CONFIG, five_batches(micro_batches))


@pytest.mark.slow
def test_accumulated_micro_batches_equal_one_big_batch():
    batch = tokens(4, 3, 16)
    optimizer = optax.sgd(1.0)
    accumulated, loss = take_steps(WITHOUT_DROPOUT, [batch], optimizer=optimizer)
    at_once, big_loss = take_steps(WITHOUT_DROPOUT, [batch.reshape(1, 12, 16)], optimizer=optimizer)
    np.testing.assert_allclose(loss, big_loss, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), accumulated.params, at_once.params)


@pytest.mark.slow
def test_bert_s_masking_is_of_all_windows_whatever_the_micro_batches():
    batch = tokens(4, 3, 16)
    options = {"optimizer": optax.sgd(1.0), "random_pieces": CONFIG.vocab_size}
    accumulated, loss = take_steps(WITHOUT_DROPOUT, [batch], **options)
    at_once, big_loss = take_steps(WITHOUT_DROPOUT, [batch.reshape(1, 12, 16)], **options)
    np.testing.assert_allclose(loss, big_loss, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), accumulated.params, at_once.params)


@pytest.mark.parametrize("micro_batches", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_bert_s_masking_hides_the_same_positions_with_other_tokens(monkeypatch, micro_batches):
    """A loss that tells what it was given: a window's masked positions as bits, or its share of [MASK]."""
    batch = [tokens(micro_batches, 100 // micro_batches, 16)] * 3
    frozen = {"optimizer": optax.set_to_zero()}
    losses = {}
    for name, seen in {
        "positions": lambda positions_bm, _: (2.0**positions_bm).sum(axis=1),
        "masks": lambda _, substitutes_bm: (substitutes_bm == MASK_ID).mean(axis=1),
    }.items():
        monkeypatch.setattr(
            train_step, "masked_lm_loss", lambda _, params, tokens_bt, *masks, seen=seen, **__: seen(*masks)
        )
        losses[name] = take_steps(CONFIG, batch, **frozen)[1]
        losses[name, "bert"] = take_steps(CONFIG, batch, random_pieces=CONFIG.vocab_size, **frozen)[1]
    assert losses["positions"] == losses["positions", "bert"] and len(set(losses["positions"])) == 3
    np.testing.assert_allclose(losses["masks"], 1)
    np.testing.assert_allclose(losses["masks", "bert"], 0.8, atol=0.1)
    assert len(set(losses["masks", "bert"])) > 1


def test_masks_and_dropout_change_with_the_step_and_are_reproducible():
    batches = [tokens(1, 3, 16)] * 3
    frozen = optax.set_to_zero()
    _, losses = take_steps(CONFIG, batches, optimizer=frozen)
    assert len(set(losses)) == 3
    assert take_steps(CONFIG, batches, optimizer=frozen)[1] == losses


@pytest.mark.slow
def test_training_lowers_the_loss():
    batches = [tokens(1, 8, 16) % 3 + 5] * 60
    _, losses = take_steps(CONFIG, batches, optimizer=make_optimizer(3e-2, 60))
    assert losses[-1] < 0.5 * losses[0]


def test_state_is_updated_in_place_and_parameters_stay_float32():
    optimizer = make_optimizer(1e-3, 10)
    step = make_train_step(CONFIG, optimizer, MASK_ID, dtype=jnp.bfloat16)
    state = initial_state(params(), optimizer)
    program = bwsk_jax.compile_for(step, state, tokens(1, 3, 16), KEY)
    compiled, memory = program.compiled, program.compiled.memory_analysis()
    state_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert memory.alias_size_in_bytes >= state_bytes
    assert program.peak_bytes < memory.temp_size_in_bytes + state_bytes + 10_000

    new_state, loss = compiled(state, tokens(1, 3, 16), KEY)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))
    assert loss.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(new_state.params))
    assert int(new_state.step) == 1


@pytest.mark.parametrize("micro_batches", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_reversible_scan_takes_the_same_steps(micro_batches):
    plain_state, plain = plain_steps(micro_batches)
    state, losses = take_steps(CONFIG, five_batches(micro_batches), scan=bwsk_jax.reversible_scan)
    np.testing.assert_allclose(losses, plain, rtol=1e-5)
    assert jax.tree.structure(state) == jax.tree.structure(plain_state)


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize("micro_batches", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_step_that_is_not_finite_is_skipped(micro_batches, platform):
    """An infinite layer-norm scale in the head makes the loss NaN."""
    optimizer = make_optimizer(1e-3, 10)
    step = make_train_step(CONFIG, optimizer, MASK_ID)
    broken = params()
    broken["head"]["layer_norm"]["scale"] = broken["head"]["layer_norm"]["scale"].at[0].set(jnp.inf)
    state = initial_state(broken, optimizer)
    before = jax.tree.map(np.array, state)
    with traced_for(platform):
        state, loss = step(state, tokens(micro_batches, 3, 16), KEY)
    assert np.isnan(loss) and int(state.step) == 1
    jax.tree.map(np.testing.assert_array_equal, state[:2], before[:2])


def test_accelerators_take_the_steps_of_a_cpu():
    plain, losses = plain_steps(2)
    with traced_for("tpu"):
        state, found = take_steps(CONFIG, five_batches(2))
    np.testing.assert_allclose(found, losses, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), state.params, plain.params)


def test_an_infinite_gradient_under_a_finite_loss_is_skipped_too():
    """With weights this large, the mean loss is finite and the squares of the gradient are not."""
    optimizer = make_optimizer(1e-3, 10)
    step = make_train_step(CONFIG, optimizer, MASK_ID)
    large = params()
    large["head"]["layer_norm"]["scale"] = large["head"]["layer_norm"]["scale"] * 1e25
    state, loss = step(initial_state(large, optimizer), tokens(2, 3, 16), KEY)
    assert np.isnan(loss)
    np.testing.assert_array_equal(state.params["head"]["layer_norm"]["scale"], np.float32(1e25))


@pytest.mark.slow
@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("scan", [jax.lax.scan, bwsk_jax.reversible_scan])
def test_float16_follows_float32_with_its_loss_scaled(micro_batches, scan):
    _, plain = plain_steps(micro_batches)
    state, losses = take_steps(CONFIG, five_batches(micro_batches), dtype=jnp.float16, scan=scan)
    np.testing.assert_allclose(losses, plain, rtol=5e-3)
    assert state.loss_scale.scale == 2**16 and state.loss_scale.finite_steps == 5
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state.params))


def test_a_scale_that_overflows_is_halved_until_steps_are_taken():
    optimizer = make_optimizer(1e-3, 10)
    step = make_train_step(CONFIG, optimizer, MASK_ID, dtype=jnp.float16, scan=bwsk_jax.reversible_scan)
    state = initial_state(params(), optimizer, dtype=jnp.float16)
    state = state._replace(loss_scale=state.loss_scale._replace(scale=jnp.float32(2**30)))
    losses = []
    for _ in range(20):
        state, loss = step(state, tokens(2, 3, 16), KEY)
        losses.append(float(loss))
    skipped = np.flatnonzero(np.isnan(losses))
    assert 2 <= len(skipped) < 20 and skipped[0] == 0 and skipped[-1] < 19
    assert state.loss_scale.scale == 2.0 ** (30 - len(skipped))
    assert state.loss_scale.finite_steps == 19 - skipped[-1]


@pytest.mark.slow
def test_float16_accumulates_the_gradient_of_one_big_micro_batch():
    """With SGD at rate 1 the update is the gradient."""
    batch, start = tokens(2, 6, 16), params()
    gradients = []
    for shape in ((2, 6, 16), (1, 12, 16)):
        state, loss = take_steps(
            WITHOUT_DROPOUT, [batch.reshape(shape)], optimizer=optax.sgd(1.0), dtype=jnp.float16
        )
        assert np.isfinite(loss).all()
        gradients.append(jax.tree.map(jnp.subtract, start, state.params))
    difference = optax.tree.norm(jax.tree.map(jnp.subtract, *gradients))
    assert 0 < difference < 2e-3 * optax.tree.norm(gradients[1])


@pytest.mark.slow
def test_one_micro_batch_that_overflows_skips_the_whole_step():
    """A model that knows `easy` by heart: there is a scale at which only `hard` overflows."""
    easy, hard = np.full((6, 16), 5, np.int32), tokens(6, 16)
    learned, _ = take_steps(WITHOUT_DROPOUT, [easy[None]] * 40, optimizer=make_optimizer(3e-2, 40))
    optimizer = make_optimizer(1e-3, 10)
    train_step = make_train_step(WITHOUT_DROPOUT, optimizer, MASK_ID, dtype=jnp.float16)

    def after(scale, *micro_batches):
        state = initial_state(jax.tree.map(jnp.copy, learned.params), optimizer, dtype=jnp.float16)
        state = state._replace(loss_scale=state.loss_scale._replace(scale=jnp.float32(scale)))
        state, loss = train_step(state, np.stack(micro_batches), KEY)
        return state, bool(np.isfinite(loss))

    scale = next(2.0**power for power in range(8, 40) if not after(2.0**power, hard, hard)[1])
    assert after(scale, easy, easy)[1]
    for micro_batches in ((easy, hard), (hard, easy)):
        state, finite = after(scale, *micro_batches)
        assert not finite and state.loss_scale.scale == scale / 2 and state.step == 1
        jax.tree.map(np.testing.assert_array_equal, state.params, learned.params)


@pytest.mark.slow
def test_lower_precisions_train_to_the_validation_loss_of_float32():
    """A window tosses coins between two tokens, which its other tokens tell: log 2, log 4 without them."""
    generator = np.random.default_rng(0)
    windows = 2 * generator.integers(0, 2, (112, 1)) + generator.integers(5, 7, (112, 16))
    batches = np.tile(windows[:96].astype(np.int32).reshape(3, 2, 16, 16), (60, 1, 1, 1))
    held_out, losses = evaluation_set(windows[96:].astype(np.int32)), []
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
        optimizer = make_optimizer(3e-2, len(batches))
        state, _ = take_steps(WITHOUT_DROPOUT, batches, optimizer=optimizer, dtype=dtype)
        window_loss = make_window_loss(CONFIG, MASK_ID, dtype=dtype)
        losses.append(math.log(pseudo_perplexity(window_loss, state.params, held_out, 16)))
    assert losses[0] < 0.75
    np.testing.assert_allclose(losses[1:], losses[0], rtol=0.02)
