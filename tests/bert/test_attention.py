"""Attention in blocks is attention, and its gradient is that of plain autodiff."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bwsk_jax.bert import attention
from bwsk_jax.bert.dropout import drawn, inflation

N, D = 3, 4
KEY = jax.random.key(7)
THRESHOLD = 2**14
fewer = settings(max_examples=min(25, settings().max_examples))  # each is of other shapes and compiled anew


def plain(q, k, v, mask, key, threshold, queries=None):
    """The definition, with what `attend` drops where it has blocks of so many queries."""
    scores = jnp.einsum("btnd,bsnd->bnts", q, k).astype(jnp.float32) * q.shape[-1] ** -0.5
    probs = jax.nn.softmax(scores if mask is None else scores + mask, axis=-1)
    if threshold:
        batch, heads, length, keys = probs.shape
        size = min(queries or length, length)
        numbers = range(-(-length // size))
        kept = [drawn(jax.random.fold_in(key, i), (batch, heads, size, keys), threshold) for i in numbers]
        kept = jnp.concatenate(kept, axis=2)[:, :, :length]
        probs = jnp.where(kept, probs * inflation(threshold), 0.0)
    return jnp.einsum("bnts,bsnd->btnd", probs.astype(q.dtype), v)


def operands(batch, length, seed=0, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(seed), 4)
    q, k, v, weights = (jax.random.normal(key, (batch, length, N, D)) for key in keys)
    return (2 * q).astype(dtype), k.astype(dtype), v.astype(dtype), weights


def value_and_gradients(fun, operands, mask, threshold):
    *inputs, weights = operands
    loss = lambda q, k, v: (fun(q, k, v, mask, KEY, threshold).astype(jnp.float32) * weights).sum()
    return fun(*inputs, mask, KEY, threshold), jax.grad(loss, (0, 1, 2))(*inputs)


def assert_same(ours, theirs, rtol):
    """The largest of all values is the yardstick: where a query attends to one place, its gradient is 0."""
    scale = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(theirs))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * scale)


def hidden_after(visible, length):
    hidden = jnp.arange(length)[None] >= jnp.asarray(visible)[:, None]
    return jnp.where(hidden, jnp.finfo(jnp.float32).min, 0.0)[:, None, None, :]


@fewer
@given(st.integers(1, 3), st.integers(1, 13), st.integers(1, 13), st.sampled_from([0, THRESHOLD]), st.data())
def test_values_and_gradients_in_blocks_of_any_size(batch, length, queries, threshold, data):
    visible = data.draw(st.none() | st.lists(st.integers(0, length), min_size=batch, max_size=batch))
    mask = None if visible is None else hidden_after(visible, length)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(attention, "LEAST_QUERIES", queries)
        patched.setattr(attention, "BLOCK_SCORES", 1)
        ours = value_and_gradients(attention.attend, operands(batch, length), mask, threshold)
    definition = functools.partial(plain, queries=queries)
    assert_same(ours, value_and_gradients(definition, operands(batch, length), mask, threshold), 2e-5)


def test_a_block_has_as_many_queries_as_its_scores_allow(monkeypatch):
    monkeypatch.setattr(attention, "LEAST_QUERIES", 2)
    trips = []
    for scores in (1, 4 * N * 16, 15 * N * 16, 16 * N * 16):
        monkeypatch.setattr(attention, "BLOCK_SCORES", scores)
        attend = lambda *args: attention.attend(*args, None, None, 0)
        jaxpr = jax.make_jaxpr(attend)(*operands(1, 16)[:3]).jaxpr
        (call,) = [e for e in jaxpr.eqns if e.primitive.name == "custom_vjp_call"]
        loops = [e for e in call.params["call_jaxpr"].eqns if e.primitive.name == "scan"]
        trips.append(loops[0].params["length"] if loops else None)
    assert trips == [8, 4, 2, None]


@pytest.mark.parametrize("threshold", [0, THRESHOLD])
def test_a_bfloat16_gradient_is_as_near_to_the_float32_one_as_plain_autodiff_is(threshold):
    narrow = operands(4, 64, dtype=jnp.bfloat16)
    _, exact = value_and_gradients(plain, [x.astype(jnp.float32) for x in narrow], None, threshold)

    def error(fun):
        _, found = value_and_gradients(fun, narrow, None, threshold)
        differences = [jnp.linalg.norm(a.astype(jnp.float32) - b) for a, b in zip(found, exact, strict=True)]
        return np.array(differences)

    assert (error(attention.attend) <= 1.05 * error(plain)).all()
