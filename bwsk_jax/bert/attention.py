"""Attention with a gradient of its own, block by block over queries.

Nothing needs the scores of all heads and positions at once, the largest array of a layer: each block of
queries gives its context, and adds its part to the gradients. Kept for the backward pass are what goes in,
what comes out, and two numbers for each query and head, from which the probabilities come back (T. Dao et
al., *FlashAttention*, 2022, arXiv:2205.14135).

Axes: B batch, T sequence (S where it is attended to, Q a block of queries), N heads, D head width.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bwsk_jax.bert.dropout import drawn, dropped, inflation

__all__ = ["attend"]

BLOCK_SCORES = 2**24
"""About how many scores a block has; in float32 they take 64 MiB. Smaller blocks use a TPU less well."""
LEAST_QUERIES = 128
"""The number of queries in a block is a multiple of this, the width of a TPU's registers."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def attend(
    q_btnd: jax.Array,
    k_bsnd: jax.Array,
    v_bsnd: jax.Array,
    mask_b11s: jax.Array | None,
    key: jax.Array | None,
    threshold: int,
) -> jax.Array:
    """Return softmax(q k / sqrt(D) + mask) v, [B, T, N, D], with dropout of the probabilities.

    The softmax is in float32. If ``threshold`` is not 0, each probability is dropped with a chance of
    ``threshold`` / 2**16, by the bits of ``key``. With p the probabilities, g the gradient of the result and
    h = g v that of the dropped probabilities, the gradient of the scores is p (h - sum(p h)), where the sum
    over S is that of g times the result over D.
    """
    return _forward(q_btnd, k_bsnd, v_bsnd, mask_b11s, key, threshold)[0]


def _forward(q_btnd, k_bsnd, v_bsnd, mask_b11s, key, threshold):
    def of_block(_, block):
        number, q_bqnd = block
        scores_bnqs = _scores(q_bqnd, k_bsnd, mask_b11s)
        largest_bnq1 = scores_bnqs.max(-1, keepdims=True)
        weights_bnqs = jnp.exp(scores_bnqs - largest_bnq1)
        total_bnq1 = weights_bnqs.sum(-1, keepdims=True)
        kept_bnqs = _drawn(key, number, weights_bnqs.shape, threshold)
        weights_bnqs = _dropped(weights_bnqs, kept_bnqs).astype(v_bsnd.dtype)
        context_bqnd = _product("bnqs,bsnd->bqnd", weights_bnqs, v_bsnd)
        context_bqnd = context_bqnd * jnp.moveaxis(inflation(threshold) / total_bnq1, 1, 2)
        return None, (context_bqnd.astype(q_bqnd.dtype), largest_bnq1, total_bnq1)

    _, (context, largest, total) = _over_blocks(of_block, None, k_bsnd, q_btnd)
    context_btnd = _joined(context, q_btnd)
    return context_btnd, (q_btnd, k_bsnd, v_bsnd, mask_b11s, key, context_btnd, largest, total)


def _backward(threshold, kept, g_btnd):
    q_btnd, k_bsnd, v_bsnd, mask_b11s, key, context_btnd, largest, total = kept
    along_btn = (g_btnd.astype(jnp.float32) * context_btnd.astype(jnp.float32)).sum(-1)

    def of_block(sums, block):
        number, q_bqnd, g_bqnd, along_bqn, largest_bnq1, total_bnq1 = block
        scores_bnqs = _scores(q_bqnd, k_bsnd, mask_b11s)
        probs_bnqs = jnp.exp(scores_bnqs - largest_bnq1) / total_bnq1
        kept_bnqs = _drawn(key, number, probs_bnqs.shape, threshold)
        dropped_bnqs = _dropped(probs_bnqs * inflation(threshold), kept_bnqs)
        of_probs_bnqs = _product("bqnd,bsnd->bnqs", g_bqnd, v_bsnd)
        of_probs_bnqs = _dropped(of_probs_bnqs * inflation(threshold), kept_bnqs)
        along_bnq1 = jnp.moveaxis(along_bqn, 1, 2)[..., None]
        of_scores_bnqs = probs_bnqs * (of_probs_bnqs - along_bnq1) * _scale(q_bqnd)
        of_scores_bnqs = of_scores_bnqs.astype(q_bqnd.dtype)
        of_k_bsnd = _product("bnqs,bqnd->bsnd", of_scores_bnqs, q_bqnd)
        of_v_bsnd = _product("bnqs,bqnd->bsnd", dropped_bnqs.astype(g_bqnd.dtype), g_bqnd)
        of_q_bqnd = _product("bnqs,bsnd->bqnd", of_scores_bnqs, k_bsnd).astype(q_bqnd.dtype)
        return (sums[0] + of_k_bsnd, sums[1] + of_v_bsnd), of_q_bqnd

    zeros = jnp.zeros(k_bsnd.shape, jnp.float32), jnp.zeros(v_bsnd.shape, jnp.float32)
    arrays = q_btnd, g_btnd, along_btn
    (of_k, of_v), of_q = _over_blocks(of_block, zeros, k_bsnd, *arrays, blocks=(largest, total))
    return _joined(of_q, q_btnd), of_k.astype(k_bsnd.dtype), of_v.astype(v_bsnd.dtype), None, None


attend.defvjp(_forward, _backward)


def _scale(q: jax.Array) -> float:
    return q.shape[-1] ** -0.5


_product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


def _scores(q_bqnd: jax.Array, k_bsnd: jax.Array, mask_b11s: jax.Array | None) -> jax.Array:
    scores_bnqs = _product("bqnd,bsnd->bnqs", q_bqnd, k_bsnd) * _scale(q_bqnd)
    return scores_bnqs if mask_b11s is None else scores_bnqs + mask_b11s


@jax.named_scope("dropout")
def _drawn(
    key: jax.Array | None, number: jax.Array, shape: tuple[int, ...], threshold: int
) -> jax.Array | None:
    """Draw what is kept of a block, the same in each pass; None if it is all."""
    if not threshold:
        return None
    assert key is not None
    return drawn(jax.random.fold_in(key, number), shape, threshold)


@jax.named_scope("dropout")
def _dropped(x: jax.Array, kept: jax.Array | None) -> jax.Array:
    return x if kept is None else dropped(x, kept)


def _over_blocks(
    body: Callable, init: Any, k_bsnd: jax.Array, *arrays_bt: jax.Array, blocks: tuple[jax.Array, ...] = ()
) -> tuple[Any, Any]:
    """Scan over blocks: each one's number, its queries of the arrays, and its part of what is in ``blocks``.

    The number of scores of a query, of all sequences and heads, is that of ``k_bsnd``'s rows. The last block
    is filled up with 0.
    """
    batch, length = arrays_bt[0].shape[:2]
    scores = math.prod(k_bsnd.shape[:-1])
    size = min(length, LEAST_QUERIES * max(1, BLOCK_SCORES // (scores * LEAST_QUERIES)))
    count = -(-length // size)

    def cut(x_bt):
        filled = jnp.pad(x_bt, [(0, 0), (0, count * size - length)] + [(0, 0)] * (x_bt.ndim - 2))
        return jnp.moveaxis(filled.reshape(batch, count, size, *x_bt.shape[2:]), 1, 0)

    xs = (jnp.arange(count), *map(cut, arrays_bt), *blocks)
    if count == 1:
        carry, outs = body(init, jax.tree.map(lambda x: x[0], xs))
        return carry, jax.tree.map(lambda x: x[None], outs)
    return jax.lax.scan(body, init, xs)


def _joined(blocks: jax.Array, like_bt: jax.Array) -> jax.Array:
    """One array of blocks of queries, without what filled up the last one."""
    joined_bt = jnp.moveaxis(blocks, 0, 1)
    return joined_bt.reshape(joined_bt.shape[0], -1, *like_bt.shape[2:])[:, : like_bt.shape[1]]
