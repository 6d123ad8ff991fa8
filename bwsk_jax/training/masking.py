"""Which positions of a window are hidden from the model.

15% of the positions, always replaced by [MASK]. The number per window is fixed, so that the head runs on
a gathered array of static shape: the logits of all positions would be the largest array of the step.

Axes: B windows, T positions, M masked positions per window.
"""

import jax
import jax.numpy as jnp

MASK_RATE = 0.15


def masked_count(seq_len: int) -> int:
    """Return M, the number of masked positions in a window of `seq_len` tokens (at least one).

    >>> masked_count(512), masked_count(64), masked_count(1)
    (77, 10, 1)
    """
    return max(1, round(MASK_RATE * seq_len))


def draw_positions(key: jax.Array, windows: int, seq_len: int) -> jax.Array:
    """Return int32 [B, M]: for each window `masked_count(seq_len)` distinct positions, uniformly drawn."""
    scores_bt = jax.random.uniform(key, (windows, seq_len))
    _, positions_bm = jax.lax.top_k(scores_bt, masked_count(seq_len))
    return positions_bm


def mask_tokens(tokens_bt: jax.Array, positions_bm: jax.Array, mask_id: int) -> tuple[jax.Array, jax.Array]:
    """Return the inputs [B, T], with `mask_id` at the positions, and the labels [B, M] that stood there."""
    labels_bm = jnp.take_along_axis(tokens_bt, positions_bm, axis=1)
    inputs_bt = jnp.put_along_axis(tokens_bt, positions_bm, mask_id, axis=1, inplace=False)
    return inputs_bt, labels_bm
