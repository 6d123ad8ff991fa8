"""A `jax.custom_vjp` need not be linear: how often its rule runs, and on what, is as without us."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import bwsk_jax
from tests.support.parity import random

LIMITS = [{}, {"max_overhead": 0.2}, {"max_overhead": bwsk_jax.LEAST_MEMORY}]
X, W = random(0, 3), random(1, 4, 3)


def with_rule(backward):
    """The identity, with this derivative."""
    fun = jax.custom_vjp(lambda x: x)
    fun.defvjp(lambda x: (x, x), lambda x, g: (backward(x, g),))
    return fun


RULES = {
    "clips": with_rule(lambda x, g: jnp.clip(g, -1, 1)),
    "adds a penalty": with_rule(lambda x, g: g + 0.1 * x),
    "rounds to integers": with_rule(lambda x, g: jnp.round(g * 100).astype(jnp.int8).astype(g.dtype) / 100),
    "compares": with_rule(lambda x, g: jnp.where(g > 0, 1.0, -1.0)),
}
BODIES = {
    "of a constant": lambda rule, w: lambda c, x: ((c[0] + rule(w) * x, jnp.sin(c[1])), None),
    "of a constant in a branch": lambda rule, w: (
        lambda c, x: ((c[0] + lax.cond(x[0] > 0, rule, jnp.sin, w) * x, c[1] * x), None)
    ),
    "of a carry": lambda rule, w: lambda c, x: ((rule(jnp.tanh(c[1] + w)), c[0] + jnp.sin(x)), c[0]),
    "of what nothing reads": lambda rule, w: (
        lambda c, x: ((c[1], c[0] + jnp.tanh(c[1] * x) * w), rule(x).sum())
    ),
    "of what is scanned": lambda rule, w: lambda c, x: ((c[0] * rule(x), c[1] + w), None),
}


@pytest.mark.parametrize("limit", LIMITS, ids=str)
@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("rule", RULES)
def test_of_a_scan(rule, name, limit):
    def grad(scan):
        loss = lambda w, x, xs: scan(BODIES[name](RULES[rule], w), (x, x), xs)[0][0].sum()
        return jax.grad(loss, (0, 1, 2))(3 * X, X + 1, W)

    ours = grad(functools.partial(bwsk_jax.reversible_scan, **limit))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), ours, grad(lax.scan))


TWO_RESULTS = {
    "looks at both": lambda x, a, b: jnp.where(
        jnp.isfinite(a).all() & jnp.isfinite(b).all(), a * jnp.cos(x) - b * jnp.sin(x), 0.0
    ),
    "divides by both": lambda x, a, b: (a * jnp.cos(x) - b * jnp.sin(x)) / (1 + jnp.abs(b)),
    "weighs by one": lambda x, a, b: a * jnp.cos(x) * jnp.exp(-b * b),
}


@pytest.mark.parametrize("limit", LIMITS, ids=str)
@pytest.mark.parametrize("rule", TWO_RESULTS)
def test_of_a_result_beside_one_that_nothing_reads(rule, limit):
    both = jax.custom_vjp(lambda x: (jnp.sin(x), jnp.cos(x)))
    both.defvjp(lambda x: (both(x), x), lambda x, ct: (TWO_RESULTS[rule](x, *ct),))
    grad = lambda f: jax.grad(lambda x: f(lambda x: both(x * x))(x)[0].sum())(X)
    np.testing.assert_allclose(
        grad(functools.partial(bwsk_jax.reversible, **limit)), grad(lambda f: f), rtol=1e-5
    )
    coupling = lambda c, x: ((c[1], c[0] + both(c[1] * x)[0]), both(c[0])[1].sum())
    metric = lambda c, x: both(c * x)
    ours = functools.partial(bwsk_jax.reversible_scan, **limit)
    for body, init in (coupling, (X, X + 1)), (metric, X):
        scanned = lambda scan, body=body, init=init: jax.grad(
            lambda x: sum(a.sum() for a in jax.tree.leaves(scan(body, init, x)[0]))
        )(W)
        np.testing.assert_allclose(scanned(ours), scanned(lax.scan), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("limit", LIMITS, ids=str)
@pytest.mark.parametrize("rule", RULES)
def test_of_a_call(rule, limit):
    twice = lambda x: 3 * jax.jit(RULES[rule])(x) + 2 * jax.jit(RULES[rule])(x)
    grad = lambda f: jax.grad(lambda x: f(x).sum())(X)
    np.testing.assert_allclose(grad(bwsk_jax.reversible(twice, **limit)), grad(twice), rtol=1e-5)
