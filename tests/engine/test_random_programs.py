"""Random programs, planned at random limits, have the gradient of plain autodiff."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from parity import INF, H, assert_same, gradients, random

import bwsk_jax

MIX = np.asarray(random(10, H, H))
UNARY = [
    jnp.tanh,
    jnp.sin,
    jax.nn.sigmoid,
    jnp.exp,
    jax.nn.relu,
    jnp.negative,
    lambda x: x * 0.5 + 1.0,
    lambda x: x / 3.0,
    lambda x: x**3,
    lambda x: jnp.log1p(jnp.exp(x)),
    lambda x: x.T,
    lambda x: x[::-1],
    lambda x: x.reshape(-1)[::-1].reshape(H, H),
    lambda x: x @ MIX,
    lambda x: x - x.mean(-1, keepdims=True),
    lambda x: x * lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-3),
    lambda x: jax.nn.softmax(x, -1),
    lambda x: jnp.concatenate([x[:, 1:], x[:, :1]], 1),
    lambda x: lax.stop_gradient(x),
    lambda x: x.astype(jnp.float32),
    jnp.abs,
    lambda x: jnp.pad(x, ((0, 1), (1, 0)))[1:, :-1] + x,
]
BINARY = [
    lambda x, y: x + y,
    lambda x, y: x - y,
    lambda x, y: x * y,
    lambda x, y: x / (2.0 + jnp.sin(y)),
    jnp.maximum,
    lambda x, y: jnp.where(x > y, x, 0.5 * y),
    lambda x, y: x @ y,
]
LINES = st.lists(
    st.tuples(
        st.sampled_from(["unary", "unary", "binary"]),
        st.integers(0, 99),
        st.integers(0, 9),
        st.integers(0, 9),
    ),
    min_size=1,
    max_size=9,
)


def program_of(lines):
    """A function of two matrices that runs the lines, each on earlier results, and returns the last two."""

    def fun(x, w):
        values = [x, w]
        for kind, which, i, j in lines:
            a, b = values[-1 - i % len(values)], values[-1 - j % len(values)]
            value = UNARY[which % len(UNARY)](a) if kind == "unary" else BINARY[which % len(BINARY)](a, b)
            values.append(
                jnp.tanh(value) if which % 3 == 0 else jnp.clip(value, -8.0, 8.0) if which % 3 == 1 else value
            )
        return values[-1], values[-2]

    return fun


SQUARE_X, SQUARE_W = random(11, H, H, scale=1.0), random(12, H, H, scale=1.0)
LIMITS = st.sampled_from([0.0, 0.01, 0.05, 0.2, INF])
settings = functools.partial(hypothesis.settings, derandomize=True, deadline=None)


def finite(tree):
    return all(bool(jnp.isfinite(a).all()) and float(jnp.abs(a).max()) < 1e4 for a in jax.tree.leaves(tree))


@settings(max_examples=25)
@hypothesis.given(LINES, LIMITS)
def test_random_calls_have_the_plain_gradient(lines, limit):
    fun = program_of(lines)
    plain = gradients(fun, SQUARE_X, SQUARE_W)
    hypothesis.assume(finite(plain))
    assert_same(gradients(bwsk_jax.reversible(fun, max_overhead=limit), SQUARE_X, SQUARE_W), plain, 1e-4)


@pytest.mark.slow
@settings(max_examples=12)
@hypothesis.given(LINES, LIMITS, st.sampled_from([None, 1, 2]))
def test_random_scans_have_the_plain_gradient(lines, limit, every):
    fun = program_of(lines)

    def body(c, w):
        a, b = c
        h, y = fun(b, w)
        a = a + jnp.tanh(h)
        return (a, b + 0.5 * jnp.sin(a @ w)), y

    w = jnp.stack([SQUARE_W, SQUARE_W.T, SQUARE_W * 0.5])
    run = lambda scan: gradients(lambda i, x: scan(body, i, x), (SQUARE_X, SQUARE_X.T), w)
    plain = run(lax.scan)
    hypothesis.assume(finite(plain))
    ours = run(functools.partial(bwsk_jax.reversible_scan, max_overhead=limit, save_every=every))
    assert_same(ours, plain, 1e-3)
