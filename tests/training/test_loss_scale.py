import jax.numpy as jnp
from flax.training.dynamic_scale import DynamicScale

from bwsk_jax.training.loss_scale import (
    GROWTH_INTERVAL,
    LARGEST_SCALE,
    LossScale,
    first_loss_scale,
    next_loss_scale,
)

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
