"""How a gradient becomes an update: AdamW with its schedule, and the loss scale that float16 needs.

The optimizer is the reference's: AdamW, a gradient clipped to a global norm, linear warm-up, cosine decay. A
recipe may have other constants and another schedule.

Loss scaling keeps small float16 gradients from vanishing. It follows Micikevicius et al. 2018, "Mixed
precision training" (arXiv:1710.03740), with the constants of `flax.training.dynamic_scale`. All factors are
powers of two, so that scaling rounds nothing.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from bwsk_jax.training.recipe import Recipe

DEFAULTS = Recipe()
WARMUP_START = 0.1
EXPONENTIAL_END = 0.01
"""What an exponential decay ends at, as a share of the peak. The others end at 0, or stay."""

FIRST_SCALE = 2.0**16
GROWTH_INTERVAL = 2000
LARGEST_SCALE = 2.0**126


def learning_rate_schedule(peak: float, total_steps: int, recipe: Recipe = DEFAULTS) -> optax.Schedule:
    """Return step -> learning rate: linear from 0.1 x `peak` over the warm-up, then by the recipe's schedule.

    With W warm-up steps of N in all, step s has `peak * (0.1 + 0.9 s/W)` for s < W. With u = (s - W)/(N - W),
    a later one has

        cosine       peak * (1 + cos(pi u)) / 2
        linear       peak * (1 - u)
        exponential  peak * 0.01 ** u
        constant     peak
    """
    warmup_steps = int(recipe.warmup * total_steps)
    steps = total_steps - warmup_steps
    match recipe.schedule:
        case "cosine":
            decay = optax.cosine_decay_schedule(peak, steps)
        case "linear":
            decay = optax.linear_schedule(peak, 0.0, steps)
        case "exponential":
            decay = optax.exponential_decay(peak, steps, EXPONENTIAL_END)
        case _:
            decay = optax.constant_schedule(peak)
    warmup = optax.linear_schedule(WARMUP_START * peak, peak, warmup_steps)
    return optax.join_schedules([warmup, decay], [warmup_steps])


def make_optimizer(
    peak_learning_rate: float, total_steps: int, recipe: Recipe = DEFAULTS
) -> optax.GradientTransformation:
    """Return AdamW, decaying every parameter, on gradients clipped to a global norm."""
    return optax.chain(
        optax.clip_by_global_norm(recipe.clip),
        optax.adamw(
            learning_rate_schedule(peak_learning_rate, total_steps, recipe),
            b1=recipe.beta1,
            b2=recipe.beta2,
            weight_decay=recipe.weight_decay,
        ),
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
