"""Dynamic loss scaling, which keeps small float16 gradients from vanishing.

Micikevicius et al. 2018, "Mixed precision training" (arXiv:1710.03740); the constants are those of
`flax.training.dynamic_scale`. All factors are powers of two, so that scaling rounds nothing.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

FIRST_SCALE = 2.0**16
GROWTH_INTERVAL = 2000
LARGEST_SCALE = 2.0**126


class LossScale(NamedTuple):
    """What the loss is multiplied by, and the finite steps since that last changed."""

    scale: jax.Array
    finite_steps: jax.Array


def first_loss_scale() -> LossScale:
    """Return the scale that a run starts from."""
    return LossScale(jnp.float32(FIRST_SCALE), jnp.zeros((), jnp.int32))


def next_loss_scale(current: LossScale, finite: jax.Array) -> LossScale:
    """Return half the scale after a step that was not finite, double after 2000 in a row that were.

    >>> next_loss_scale(first_loss_scale(), jnp.array(False)).scale.item()
    32768.0
    """
    finite_steps = jnp.where(finite, current.finite_steps + 1, 0)
    grows = finite_steps == GROWTH_INTERVAL
    scale = jnp.where(grows, jnp.minimum(2 * current.scale, LARGEST_SCALE), current.scale)
    scale = jnp.where(finite, scale, current.scale / 2)
    return LossScale(scale, jnp.where(grows, 0, finite_steps))
