"""AdamW with global-norm clipping, linear warm-up and cosine decay: the reference's recipe."""

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


def make_optimizer(peak_learning_rate: float, total_steps: int) -> optax.GradientTransformation:
    """Return AdamW, decaying every parameter by 0.01, on gradients clipped to global norm 1."""
    return optax.chain(
        optax.clip_by_global_norm(CLIP_NORM),
        optax.adamw(learning_rate_schedule(peak_learning_rate, total_steps), weight_decay=WEIGHT_DECAY),
    )
