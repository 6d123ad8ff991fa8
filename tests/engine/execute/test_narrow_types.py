"""Types narrower than float32: a gradient is no further from that of float32 than plain autodiff's is."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import bwsk_jax

L, B, H = 6, 16, 32
SMALLER = [jnp.float16, jnp.float8_e4m3fn, jnp.float8_e5m2]
TYPES = [jnp.bfloat16, *(pytest.param(t, marks=pytest.mark.slow) for t in SMALLER)]


def residual(c, w):
    return c + jnp.tanh(c @ w[0] + w[1]), None


def layer_scale(c, w):
    """The branch comes in by a small learnt factor."""
    return c + w[1] * jnp.tanh(c @ w[0]), None


def post_norm(c, w):
    h = c + jnp.tanh(c @ w[0])
    wide = h.astype(jnp.float32)
    wide = (wide - wide.mean(-1, keepdims=True)) * lax.rsqrt(wide.var(-1, keepdims=True) + 1e-5)
    return (wide * w[1].astype(jnp.float32)).astype(c.dtype), None


def gradient(scan, body, dtype, values):
    def loss(init, weights):
        last, _ = scan(body, init, weights)
        return jnp.sum(jnp.sin(last.astype(jnp.float32)))

    values = jax.tree.map(lambda a: jnp.asarray(a, dtype), values)
    return jax.jit(jax.grad(loss, (0, 1)))(*values)


def distances(ours, exact):
    """How far each array is off, in units of its norm."""
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(exact), strict=True)
    pairs = [(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in pairs]
    return np.array([np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in pairs])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    "body", [residual, *(pytest.param(b, marks=pytest.mark.slow) for b in (layer_scale, post_norm))]
)
def test_a_gradient_is_no_further_from_float32_than_plain_autodiff_is(body, dtype):
    random = np.random.default_rng(3)
    weights = random.normal(0, H**-0.5, (L, H, H)), random.normal(0.3, 0.05, (L, 1, H))
    rounded = jax.tree.map(lambda a: jnp.asarray(a, dtype), (random.normal(size=(B, H)), weights))
    exact = gradient(lax.scan, body, jnp.float32, rounded)
    plain = distances(gradient(lax.scan, body, dtype, rounded), exact)
    for limit in (0.03, math.inf):
        ours = functools.partial(bwsk_jax.reversible_scan, max_overhead=limit)
        assert (distances(gradient(ours, body, dtype, rounded), exact) <= 1.15 * plain).all()
