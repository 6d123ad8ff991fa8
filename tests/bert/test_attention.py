"""Attention in blocks is attention, and its gradient is that of plain autodiff."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import bwsk_jax
from bwsk_jax.bert import attention
from bwsk_jax.bert.dropout import drawn, inflation

N, D = 3, 4
KEY = jax.random.key(7)
THRESHOLD = 2**14
fewer = settings(max_examples=min(25, settings().max_examples))  # each is of other shapes and compiled anew


def plain(q, k, v, mask, key, threshold, sequences=None, queries=None):
    """The definition, with what `attend` drops where it has blocks of so many sequences and queries."""
    scores = jnp.einsum("btnd,bsnd->bnts", q, k).astype(jnp.float32) * q.shape[-1] ** -0.5
    probs = jax.nn.softmax(scores if mask is None else scores + mask, axis=-1)
    if threshold:
        kept = kept_in_blocks(key, threshold, probs.shape, sequences or len(q), queries or q.shape[1])
        probs = jnp.where(kept, probs * inflation(threshold), 0.0)
    return jnp.einsum("bnts,bsnd->btnd", probs.astype(q.dtype), v)


def kept_in_blocks(key, threshold, shape, sequences, queries):
    batch, heads, length, keys = shape
    queries = min(queries, length)
    draw = lambda number: drawn(jax.random.fold_in(key, number), (sequences, heads, queries, keys), threshold)
    blocks = [
        jnp.concatenate([draw(first + i) for i in range(-(-length // queries))], axis=2)[:, :, :length]
        for first in range(0, batch * length, sequences * length)
    ]
    return jnp.concatenate(blocks)


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


def check_in_blocks(data, batch, length, threshold, sequences, queries, scores):
    """Where blocks are so large by their number of scores, and by the least number of queries."""
    visible = data.draw(st.none() | st.lists(st.integers(0, length), min_size=batch, max_size=batch))
    mask = None if visible is None else hidden_after(visible, length)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(attention, "LEAST_QUERIES", queries)
        patched.setattr(attention, "BLOCK_SCORES", scores)
        ours = value_and_gradients(attention.attend, operands(batch, length), mask, threshold)
    definition = functools.partial(plain, sequences=sequences, queries=queries)
    assert_same(ours, value_and_gradients(definition, operands(batch, length), mask, threshold), 2e-5)


dropouts = st.sampled_from([0, THRESHOLD])


@fewer
@given(st.integers(1, 3), st.integers(1, 13), st.integers(1, 13), dropouts, st.data())
def test_values_and_gradients_in_blocks_of_any_number_of_queries(batch, length, queries, threshold, data):
    check_in_blocks(data, batch, length, threshold, 1, queries, scores=1)


@fewer
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), dropouts, st.data())
def test_values_and_gradients_in_blocks_of_any_number_of_sequences(blocks, size, length, threshold, data):
    check_in_blocks(data, blocks * size, length, threshold, size, length, scores=size * N * length**2)


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


@pytest.mark.parametrize("sizes", [pytest.param((1, 4), marks=pytest.mark.slow), (4, 1), (2, 2)])
@pytest.mark.parametrize("scores", [16, 4 * 8 * 8 * 2])
@pytest.mark.parametrize("scan", [jax.lax.scan, bwsk_jax.reversible_scan])
def test_no_device_sends_anything_for_a_block(scan, scores, sizes, monkeypatch):
    """Sequences are split over the first axis of the mesh and heads over the second."""
    monkeypatch.setattr(attention, "LEAST_QUERIES", 4)
    monkeypatch.setattr(attention, "BLOCK_SCORES", scores)
    mesh = jax.make_mesh(sizes, ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    spread = NamedSharding(mesh, PartitionSpec("data", None, "model"))
    q, k, v = (jax.ShapeDtypeStruct((16, 8, 4, D), jnp.float32, sharding=spread) for _ in range(3))

    def loss(q, k, v):
        layer = lambda q, _: (attention.attend(q, k, v, None, jax.random.key(0), THRESHOLD), None)
        return (scan(layer, q, None, length=2)[0] ** 2).sum()

    compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(q, k, v).compile()
    text = compiled.as_text()
    assert "while" in text
    assert not re.search(r" (all-reduce|all-gather|collective-permute|all-to-all)(-start)?\(", text)
