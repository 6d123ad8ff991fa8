import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.training.dynamic_scale import DynamicScale
from hypothesis import given, settings
from hypothesis import strategies as st

from bwsk_jax.training.recipe import SCHEDULES, Recipe
from bwsk_jax.training.step.optimizer import (
    GROWTH_INTERVAL,
    LARGEST_SCALE,
    LossScale,
    first_loss_scale,
    learning_rate_schedule,
    make_optimizer,
    next_loss_scale,
)


@settings(deadline=None, max_examples=25)
@given(total=st.integers(1, 2000), data=st.data())
def test_schedule_is_linear_then_cosine(total, data):
    step = data.draw(st.integers(0, total))
    warmup = total // 10
    if step < warmup:
        expected = 3e-4 * (0.1 + 0.9 * step / warmup)
    else:
        expected = 3e-4 * (1 + np.cos(np.pi * (step - warmup) / (total - warmup))) / 2
    actual = learning_rate_schedule(3e-4, total)(step)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-10)


@pytest.mark.parametrize("scale", [0.1, 100.0])
def test_first_update_is_adamw_on_the_clipped_gradient(scale):
    """In the first step Adam's update is the sign of the gradient, whatever its scale; decay is added."""
    params = {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([3.0])}
    gradient = jax.tree.map(lambda leaf: -scale * jnp.ones_like(leaf), params)
    optimizer = make_optimizer(1e-2, 100)
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    expected = jax.tree.map(lambda leaf: -1e-3 * (-1 + 0.01 * leaf), params)
    for name in params:
        np.testing.assert_allclose(updates[name], expected[name], rtol=1e-4)


def test_moments_see_the_gradient_clipped_to_norm_one():
    params = {"kernel": jnp.zeros(4)}
    optimizer = make_optimizer(1e-2, 100)
    _, state = optimizer.update({"kernel": jnp.full(4, 50.0)}, optimizer.init(params), params)
    (first_moment,) = [leaf for leaf in jax.tree.leaves(state) if leaf.shape == (4,) and leaf[0] > 1e-2]
    np.testing.assert_allclose(np.linalg.norm(first_moment), 0.1, rtol=1e-5)


@pytest.mark.parametrize(
    ("schedule", "decay"),
    [
        ("cosine", lambda u: (1 + np.cos(np.pi * u)) / 2),
        ("linear", lambda u: 1 - u),
        ("exponential", lambda u: 0.01**u),
        ("constant", lambda u: np.ones_like(u)),
    ],
)
@pytest.mark.parametrize("warmup", [0.0, 0.25])
def test_each_schedule_is_its_formula(schedule, decay, warmup):
    steps, rising = np.arange(101), int(warmup * 100)
    risen = 0.1 + 0.9 * steps / max(rising, 1)
    expected = 2e-3 * np.where(steps < rising, risen, decay((steps - rising) / (100 - rising)))
    recipe = Recipe(schedule=schedule, warmup=warmup)
    actual = learning_rate_schedule(2e-3, 100, recipe)(steps)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-9)


def test_every_schedule_has_a_formula():
    assert SCHEDULES == ("cosine", "linear", "exponential", "constant")


def test_updates_are_those_of_adamw_with_the_recipe_s_constants():
    """Loshchilov and Hutter 2019, "Decoupled weight decay regularization", algorithm 2, in float64."""
    recipe = Recipe(schedule="constant", warmup=0, weight_decay=0.2, beta1=0.7, beta2=0.95, clip=0.5)
    optimizer = make_optimizer(0.1, 10, recipe)
    weights = np.array([1.0, -2.0, 0.5])
    params, first, second = jnp.array(weights, jnp.float32), np.zeros(3), np.zeros(3)
    state = optimizer.init(params)
    for step, gradient in enumerate(np.random.default_rng(0).normal(size=(5, 3)), start=1):
        updates, state = optimizer.update(jnp.array(gradient, jnp.float32), state, params)
        params = optax.apply_updates(params, updates)
        gradient = gradient * min(1, 0.5 / np.linalg.norm(gradient))
        first, second = 0.7 * first + 0.3 * gradient, 0.95 * second + 0.05 * gradient**2
        moved = first / (1 - 0.7**step) / (np.sqrt(second / (1 - 0.95**step)) + 1e-8)
        weights = weights - 0.1 * (moved + 0.2 * weights)
        np.testing.assert_allclose(params, weights, rtol=1e-5)


def test_an_infinite_norm_clips_nothing():
    gradient = {"kernel": jnp.full(4, 50.0)}
    optimizer = make_optimizer(1e-2, 100, Recipe(clip=np.inf))
    _, state = optimizer.update(gradient, optimizer.init(gradient), gradient)
    assert any((leaf == 5).all() for leaf in jax.tree.leaves(state) if leaf.shape == (4,))


YES, NO = jnp.array(True), jnp.array(False)


def at(scale, finite_steps):
    return LossScale(jnp.float32(scale), jnp.int32(finite_steps))


def test_constants_are_flax_s():
    flax = DynamicScale()
    assert first_loss_scale().scale == flax.scale
    assert (flax.growth_interval, flax.growth_factor, flax.backoff_factor) == (GROWTH_INTERVAL, 2, 0.5)


def test_it_grows_after_enough_finite_steps_and_halves_at_once():
    assert next_loss_scale(at(8, 5), YES) == at(8, 6)
    assert next_loss_scale(at(8, 1999), YES) == at(16, 0)
    assert next_loss_scale(at(8, 1999), NO) == at(4, 0)
    assert next_loss_scale(at(LARGEST_SCALE, 1999), YES) == at(LARGEST_SCALE, 0)
