"""How a gradient becomes an update: AdamW with its schedule, and the loss scale that float16 needs.

The optimizer is the reference's: AdamW, a gradient clipped to a global norm, linear warm-up, cosine decay.

Loss scaling keeps small float16 gradients from vanishing. It follows Micikevicius et al. 2018, "Mixed
precision training" (arXiv:1710.03740), with the constants of `flax.training.dynamic_scale`. All factors are
powers of two, so that scaling rounds nothing.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

WEIGHT_DECAY = 0.01
CLIP_NORM = 1.0
WARMUP_FRACTION = 0.1
WARMUP_START = 0.1

FIRST_SCALE = 2.0**16
GROWTH_INTERVAL = 2000
LARGEST_SCALE = 2.0**126


def learning_rate_schedule(peak: float, total_steps: int) -> optax.Schedule:
    """Return step -> learning rate: linear from 0.1 x `peak` over the first 10% of steps, then cosine to 0.

    With W warm-up steps of N in all, step s has `peak * (0.1 + 0.9 s/W)` for s < W and
    `peak * (1 + cos(pi (s - W)/(N - W))) / 2` after.
    """
    return optax.warmup_cosine_decay_schedule(
        init_value=WARMUP_START * peak,
        peak_value=peak,
        warmup_steps=int(WARMUP_FRACTION * total_steps),
        decay_steps=total_steps,  # optax counts the warm-up among these
    )


def make_optimizer(peak_learning_rate: float, total_steps: int) -> optax.GradientTransformation:
    """Return AdamW, decaying every parameter by 0.01, on gradients clipped to global norm 1."""
    return optax.chain(
        optax.clip_by_global_norm(CLIP_NORM),
        optax.adamw(learning_rate_schedule(peak_learning_rate, total_steps), weight_decay=WEIGHT_DECAY),
    )


class LossScale(NamedTuple):
    """The factor on the loss, and how many steps in a row were finite since it last changed."""

    scale: jax.Array
    finite_steps: jax.Array


def first_loss_scale() -> LossScale:
    """Return the scale that a run starts from."""
    return LossScale(jnp.float32(FIRST_SCALE), jnp.zeros((), jnp.int32))


def next_loss_scale(current: LossScale, finite: jax.Array) -> LossScale:
    """Return the scale after a step: half if that was not finite, double after 2000 finite ones in a row.

    >>> next_loss_scale(first_loss_scale(), jnp.array(False)).scale.item()
    32768.0
    """
    finite_steps = jnp.where(finite, current.finite_steps + 1, 0)
    grows = finite_steps == GROWTH_INTERVAL
    scale = jnp.where(grows, jnp.minimum(2 * current.scale, LARGEST_SCALE), current.scale)
    scale = jnp.where(finite, scale, current.scale / 2)
    return LossScale(scale, jnp.where(grows, 0, finite_steps))
