"""Attention with a gradient of its own, block by block.

Nothing needs the scores of all sequences, heads and positions at once, the largest array of a layer. Each
block gives its context, and its part of the gradients. It is some of the sequences, or some queries of one
that is too long. Kept for the backward pass are what goes in, what comes out, and two numbers for each query
and head, from which the probabilities come back (T. Dao et al., *FlashAttention*, 2022, arXiv:2205.14135).

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
"""The most scores that a block has on a device; in float32 they take 64 MiB, which the fast memory of a TPU
holds. Smaller blocks use a TPU less well."""
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
    of_block = functools.partial(_context, key, threshold)
    context_btnd, *kept = _over_sequences(of_block, q_btnd, k_bsnd, v_bsnd, mask_b11s)
    return context_btnd, (q_btnd, k_bsnd, v_bsnd, mask_b11s, key, context_btnd, *kept)


def _backward(threshold, kept, g_btnd):
    q_btnd, k_bsnd, v_bsnd, mask_b11s, key, context_btnd, *numbers_btn = kept
    along_btn = (g_btnd.astype(jnp.float32) * context_btnd.astype(jnp.float32)).sum(-1)
    of_block = functools.partial(_gradients, key, threshold)
    arrays = q_btnd, k_bsnd, v_bsnd, mask_b11s, g_btnd, along_btn, *numbers_btn
    return (*_over_sequences(of_block, *arrays), None, None)


attend.defvjp(_forward, _backward)


def _context(key, threshold, first, q_btnd, k_bsnd, v_bsnd, mask_b11s):
    """The context of some sequences, and what is kept: the largest score, and one over the sum of weights."""

    def of_block(_, number, q_bqnd):
        scores_bnqs = _scores(q_bqnd, k_bsnd, mask_b11s)
        largest_bnq = scores_bnqs.max(-1)
        weights_bnqs = jnp.exp(scores_bnqs - largest_bnq[..., None])
        share_bqn = jnp.moveaxis(1 / weights_bnqs.sum(-1), 1, 2)
        kept_bnqs = _drawn(key, first + number, weights_bnqs.shape, threshold)
        weights_bnqs = _dropped(weights_bnqs, kept_bnqs).astype(v_bsnd.dtype)
        context_bqnd = _product("bnqs,bsnd->bqnd", weights_bnqs, v_bsnd)
        context_bqnd = context_bqnd * (inflation(threshold) * share_bqn)[..., None]
        return None, (context_bqnd.astype(q_bqnd.dtype), jnp.moveaxis(largest_bnq, 1, 2), share_bqn)

    return _over_queries(of_block, None, k_bsnd, q_btnd)[1]


def _gradients(
    key, threshold, first, q_btnd, k_bsnd, v_bsnd, mask_b11s, g_btnd, along_btn, largest_btn, share_btn
):
    """The gradients of the queries, keys and values of some sequences."""

    def of_block(sums, number, q_bqnd, g_bqnd, along_bqn, largest_bqn, share_bqn):
        beside_scores = lambda x_bqn: jnp.moveaxis(x_bqn, 1, 2)[..., None]
        scores_bnqs = _scores(q_bqnd, k_bsnd, mask_b11s)
        probs_bnqs = jnp.exp(scores_bnqs - beside_scores(largest_bqn)) * beside_scores(share_bqn)
        kept_bnqs = _drawn(key, first + number, probs_bnqs.shape, threshold)
        dropped_bnqs = _dropped(probs_bnqs * inflation(threshold), kept_bnqs)
        of_probs_bnqs = _product("bqnd,bsnd->bnqs", g_bqnd, v_bsnd)
        of_probs_bnqs = _dropped(of_probs_bnqs * inflation(threshold), kept_bnqs)
        of_scores_bnqs = probs_bnqs * (of_probs_bnqs - beside_scores(along_bqn)) * _scale(q_bqnd)
        of_scores_bnqs = of_scores_bnqs.astype(q_bqnd.dtype)
        of_k_bsnd = _product("bnqs,bqnd->bsnd", of_scores_bnqs, q_bqnd)
        of_v_bsnd = _product("bnqs,bqnd->bsnd", dropped_bnqs.astype(g_bqnd.dtype), g_bqnd)
        of_q_bqnd = _product("bnqs,bsnd->bqnd", of_scores_bnqs, k_bsnd).astype(q_bqnd.dtype)
        return (sums[0] + of_k_bsnd, sums[1] + of_v_bsnd), (of_q_bqnd,)

    zeros = jnp.zeros(k_bsnd.shape, jnp.float32), jnp.zeros(v_bsnd.shape, jnp.float32)
    arrays = q_btnd, g_btnd, along_btn, largest_btn, share_btn
    (of_k, of_v), (of_q,) = _over_queries(of_block, zeros, k_bsnd, *arrays)
    return of_q, of_k.astype(k_bsnd.dtype), of_v.astype(v_bsnd.dtype)


def _scale(q: jax.Array) -> float:
    return q.shape[-1] ** -0.5


_product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


def _scores(q_bqnd: jax.Array, k_bsnd: jax.Array, mask_b11s: jax.Array | None) -> jax.Array:
    scores_bnqs = _product("bqnd,bsnd->bnqs", q_bqnd, k_bsnd) * _scale(q_bqnd)
    return scores_bnqs if mask_b11s is None else scores_bnqs + mask_b11s


@jax.named_scope("dropout")
def _drawn(key: jax.Array | None, number: Any, shape: tuple[int, ...], threshold: int) -> jax.Array | None:
    """Draw what is kept of a block, the same in each pass; None if it is all."""
    if not threshold:
        return None
    assert key is not None
    return drawn(jax.random.fold_in(key, number), shape, threshold)


@jax.named_scope("dropout")
def _dropped(x: jax.Array, kept: jax.Array | None) -> jax.Array:
    return x if kept is None else dropped(x, kept)


# --- blocks -------------------------------------------------------------------------------------------------


def _over_sequences(of_block: Callable, q_btnd: jax.Array, k_bsnd: jax.Array, *arrays_b: Any) -> Any:
    """What ``of_block(first, q, k, *arrays)`` gives for blocks of sequences, of all of them.

    ``first`` is the number of the block's first query if all queries are numbered. A block has as many
    sequences of one device as of any other, so that no device sends any.
    """
    batch, length, heads = q_btnd.shape[:3]
    devices = _spread(q_btnd)
    most = devices * BLOCK_SCORES // (length * heads * k_bsnd.shape[1])
    together = math.gcd(batch, devices)
    sizes = (size for size in range(batch, 0, -together) if batch % size == 0 and size <= max(most, together))
    size = next(sizes)
    if size == batch:
        return of_block(0, q_btnd, k_bsnd, *arrays_b)

    def cut(x_b):
        apart = x_b.reshape(together, batch // size, size // together, *x_b.shape[1:])
        return jnp.moveaxis(apart, 1, 0).reshape(-1, size, *x_b.shape[1:])

    def joined(blocks):
        apart = blocks.reshape(-1, together, size // together, *blocks.shape[2:])
        return jnp.moveaxis(apart, 0, 1).reshape(batch, *blocks.shape[2:])

    xs = jnp.arange(0, batch * length, size * length), *jax.tree.map(cut, (q_btnd, k_bsnd, *arrays_b))
    return jax.tree.map(joined, jax.lax.map(lambda block: of_block(*block), xs))


def _spread(x: jax.Array) -> int:
    """Over how many devices the values of this program may be spread."""
    mesh = jax.typeof(x).sharding.mesh
    return math.prod(size for axis, size in mesh.shape.items() if axis not in mesh.manual_axes)


def _over_queries(of_block: Callable, init: Any, k_bsnd: jax.Array, *arrays_bt: jax.Array) -> tuple[Any, Any]:
    """Fold ``of_block(carry, number, *arrays) -> (carry, results)`` over blocks of queries.

    Returns the carry, and the results of all queries. The last block is filled up with 0.
    """
    length = arrays_bt[0].shape[1]
    most = _spread(k_bsnd) * BLOCK_SCORES // math.prod(k_bsnd.shape[:-1])
    size = min(length, LEAST_QUERIES * max(1, most // LEAST_QUERIES))
    if size == length:
        return of_block(init, 0, *arrays_bt)
    count = -(-length // size)
    fill = lambda x_bt: jnp.pad(x_bt, [(0, 0), (0, count * size - length)] + [(0, 0)] * (x_bt.ndim - 2))
    filled = list(map(fill, arrays_bt))

    def step(carry, number):
        cut = (jax.lax.dynamic_slice_in_dim(x_bt, number * size, size, axis=1) for x_bt in filled)
        return of_block(carry, number, *cut)

    def joined(blocks):
        joined_bt = jnp.moveaxis(blocks, 0, 1)
        return joined_bt.reshape(joined_bt.shape[0], -1, *joined_bt.shape[3:])[:, :length]

    carry, results = jax.lax.scan(step, init, jnp.arange(count))
    return carry, jax.tree.map(joined, results)
