"""Masked language modelling: which tokens the model has to predict, what it sees instead, and the loss.

15% of a window's positions are to be predicted; training may have another rate. In evaluation, and by default
in training, [MASK] stands at all of them. Training may also follow Devlin et al. 2018, "BERT"
(arXiv:1810.04805), section 3.1. Each window has the same number of them, so that the head can run on a
gathered array of static shape: the logits of all positions would be the largest array of the step.

Axes: B windows, T positions, H hidden, M masked positions per window, V vocabulary.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from bwsk_jax import bert

MASK_RATE = 0.15
MASKED_SHARE = 0.8
RANDOM_SHARE = 0.1


def masked_count(seq_len: int, rate: float = MASK_RATE) -> int:
    """Return M, the number of masked positions in a window of `seq_len` tokens (at least one).

    >>> masked_count(512), masked_count(64), masked_count(1)
    (77, 10, 1)
    """
    return max(1, round(rate * seq_len))


def draw_positions(
    key: jax.Array, windows: int, seq_len: int, rate: float = MASK_RATE, last_bt: jax.Array | None = None
) -> jax.Array:
    """Return int32 [B, M]: `masked_count(seq_len, rate)` distinct positions per window, drawn uniformly.

    Where `last_bt` is true, positions are drawn only once there are no others.
    """
    scores_bt = jax.random.uniform(key, (windows, seq_len))
    if last_bt is not None:
        scores_bt = jnp.where(last_bt, -1.0, scores_bt)
    _, positions_bm = jax.lax.top_k(scores_bt, masked_count(seq_len, rate))
    return positions_bm


def is_one_of(tokens: jax.Array, ids: tuple[int, ...]) -> jax.Array:
    """Return where `tokens` are one of `ids`, as booleans of the shape of `tokens`."""
    return jnp.isin(tokens, jnp.array(ids, jnp.int32))


def draw_substitutes(key: jax.Array, labels: jax.Array, mask_id: int, pieces: int) -> jax.Array:
    """Return what the model sees instead of `labels`, which are token ids of any shape.

    Each is drawn independently: `mask_id` in 80% of the cases, in 10% an id below `pieces`, all equally
    likely, and in 10% the label itself.
    """
    share_key, piece_key = jax.random.split(key)
    share = jax.random.uniform(share_key, labels.shape)
    random_ids = jax.random.randint(piece_key, labels.shape, 0, pieces, labels.dtype)
    unmasked = jnp.where(share < MASKED_SHARE + RANDOM_SHARE, random_ids, labels)
    return jnp.where(share < MASKED_SHARE, mask_id, unmasked)


def mask_tokens(
    tokens_bt: jax.Array, positions_bm: jax.Array, substitutes: int | jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return the model's inputs [B, T] and its labels [B, M], which are the tokens at the positions.

    The inputs have `substitutes` at the positions: ids [B, M], or one id for all.
    """
    labels_bm = jnp.take_along_axis(tokens_bt, positions_bm, axis=1)
    inputs_bt = jnp.put_along_axis(tokens_bt, positions_bm, substitutes, axis=1, inplace=False)
    return inputs_bt, labels_bm


def masked_lm_loss(
    config: bert.BertConfig,
    params,
    tokens_bt: jax.Array,
    positions_bm: jax.Array,
    substitutes: int | jax.Array,
    *,
    unmasked: tuple[int, ...] = (),
    dropout_key: jax.Array | None = None,
    dtype=jnp.float32,
    scan: Callable = jax.lax.scan,
    split: Callable[[jax.Array], jax.Array] = lambda array: array,
) -> jax.Array:
    """Return float32 [B]: for each window the mean cross-entropy over its masked positions, in nats.

    At these positions the model sees `substitutes`: ids [B, M], or one id for all. The head runs on the M
    gathered positions only. Positions of tokens that are `unmasked` ids stay as they are and count nothing,
    such as those of [CLS] and [SEP] around documents. Without `dropout_key` nothing is dropped. `scan` is how
    the encoder scans over its layers; it must compute what `jax.lax.scan` computes. `split` keeps the windows
    of an array split over devices, if they are.
    """
    counted_bm = None
    if unmasked:
        tokens_bm = jnp.take_along_axis(tokens_bt, positions_bm, axis=1)
        counted_bm = ~is_one_of(tokens_bm, unmasked)
        substitutes = jnp.where(counted_bm, substitutes, tokens_bm)
    inputs_bt, labels_bm = mask_tokens(tokens_bt, positions_bm, substitutes)
    hidden_bth = bert.encode(config, params, inputs_bt, dropout_key=dropout_key, dtype=dtype, scan=scan)
    hidden_bmh = split(jnp.take_along_axis(hidden_bth, positions_bm[..., None], axis=1))
    logits_bmv = split(bert.predict(config, params, hidden_bmh))
    losses_bm = optax.softmax_cross_entropy_with_integer_labels(logits_bmv, labels_bm)
    if counted_bm is None:
        return losses_bm.mean(axis=-1)
    return jnp.where(counted_bm, losses_bm, 0).sum(axis=-1) / jnp.maximum(counted_bm.sum(axis=-1), 1)
