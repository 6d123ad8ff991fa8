"""Which positions of a window the model has to predict, and what stands there instead.

15% of the positions. In evaluation, and by default in training, [MASK] stands there; training may also follow
Devlin et al. 2018, "BERT" (arXiv:1810.04805), section 3.1. The number per window is fixed, so that the head
runs on a gathered array of static shape: the logits of all positions would be the largest array of the step.

Axes: B windows, T positions, M masked positions per window.
"""

import jax
import jax.numpy as jnp

MASK_RATE = 0.15
MASKED_SHARE = 0.8
RANDOM_SHARE = 0.1


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


def draw_substitutes(key: jax.Array, labels: jax.Array, mask_id: int, pieces: int) -> jax.Array:
    """Return what stands in for each of `labels` (token ids of any shape), drawn independently.

    `mask_id` in 80% of the cases, an id below `pieces` in 10%, all equally likely, and the label in 10%.
    """
    share_key, piece_key = jax.random.split(key)
    share = jax.random.uniform(share_key, labels.shape)
    random_ids = jax.random.randint(piece_key, labels.shape, 0, pieces, labels.dtype)
    unmasked = jnp.where(share < MASKED_SHARE + RANDOM_SHARE, random_ids, labels)
    return jnp.where(share < MASKED_SHARE, mask_id, unmasked)


def mask_tokens(
    tokens_bt: jax.Array, positions_bm: jax.Array, substitutes: int | jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return the inputs [B, T], with `substitutes` at the positions, and the labels [B, M] that stood there.

    `substitutes` are ids [B, M], or one id for all.
    """
    labels_bm = jnp.take_along_axis(tokens_bt, positions_bm, axis=1)
    inputs_bt = jnp.put_along_axis(tokens_bt, positions_bm, substitutes, axis=1, inplace=False)
    return inputs_bt, labels_bm
