"""AdamW with global-norm clipping, linear warm-up and cosine decay: the reference's recipe."""

import jax
import jax.numpy as jnp
import optax

WEIGHT_DECAY = 0.01
CLIP_NORM = 1.0
WARMUP_FRACTION = 0.1
WARMUP_START = 0.1


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


def clip_by_global_norm(limit: float) -> optax.GradientTransformation:
    """Return a transformation that scales gradients by min(1, `limit` / their global norm).

    As `optax.clip_by_global_norm`, which divides every element: XLA does not repeat a division in the
    updates of both moments, and keeps a second copy of the whole gradient instead.
    """

    def clip(gradient, params):
        del params
        scale = limit / jnp.maximum(optax.tree.norm(gradient), limit)
        return jax.tree.map(lambda leaf: leaf * scale, gradient)

    return optax.stateless(clip)


def make_optimizer(peak_learning_rate: float, total_steps: int) -> optax.GradientTransformation:
    """Return AdamW, decaying every parameter by 0.01, on gradients clipped to global norm 1."""
    return optax.chain(
        clip_by_global_norm(CLIP_NORM),
        optax.adamw(learning_rate_schedule(peak_learning_rate, total_steps), weight_decay=WEIGHT_DECAY),
    )
