"""`reversible` against plain autodiff: the same values and gradients."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import bwsk_jax
from tests.support.parity import INF, LEAST, H, W, X, assert_same, gradients, random
from tests.support.scan_bodies import KEY, block, coupling, custom, dense

CALLS = {
    "block": (block, (X, W[0])),
    "integers and keys": (
        lambda x, n, key: (jnp.where(jax.random.bernoulli(key, 0.5, x.shape), jnp.exp(x), 0) * n, n + 1, key),
        (X, jnp.int32(3), KEY),
    ),
    "pytrees": (
        lambda p: {"y": jnp.sin(p["a"]) * p["b"][0], "none": None, "n": ()},
        ({"a": X, "b": [X, None]},),
    ),
    "an argument out": (lambda x, y: (x, y, jnp.exp(x)), (X, X)),
    "a constant out": (lambda x: (jnp.ones(3), 2.0, jnp.tanh(x)), (X,)),
    "unused": (lambda x, y: jnp.sin(x), (X, X)),
    "nothing in": (lambda: jnp.ones(3), ()),
    "scan inside": (lambda x, w: lax.scan(dense, x, w), (X, W)),
    "reversible scan inside": (lambda x, w: LEAST(coupling, (x, x), w), (X, W)),
    "custom derivatives": (lambda x, w: custom(x, w)[0], (X, W[0])),
    "complex": (lambda z: jnp.abs(jnp.exp(z)) + jnp.sin(z).real, (X + 1j * X,)),
}


@pytest.mark.parametrize(
    "limit",
    [
        pytest.param(None, id="default"),
        pytest.param(0.0, id="no recomputation", marks=pytest.mark.slow),
        pytest.param(INF, id="least memory"),
    ],
)
@pytest.mark.parametrize("name", CALLS)
def test_a_call_has_the_values_and_gradients_of_the_function(name, limit):
    fun, args = CALLS[name]
    plain = {"reversible scan inside": lambda x, w: lax.scan(coupling, (x, x), w)}.get(name, fun)
    assert_same(gradients(bwsk_jax.reversible(fun, max_overhead=limit), *args), gradients(plain, *args))


def test_keywords_and_names_pass_through():
    def fun(x, *, scale):
        """Doc."""
        return jnp.sin(x) * scale

    wrapped = bwsk_jax.reversible(fun)
    assert (wrapped.__name__, wrapped.__doc__) == ("fun", "Doc.")
    assert_same(
        jax.grad(lambda x: wrapped(x, scale=X).sum())(X), jax.grad(lambda x: fun(x, scale=X).sum())(X)
    )


def test_a_function_of_integers_alone():
    assert bwsk_jax.reversible(lambda n: n + 1)(3) == 4
    assert bwsk_jax.plan(lambda n: n + 1, jax.ShapeDtypeStruct((), jnp.int32)).saved_bytes == 0


def test_gradient_of_some_arguments_alone():
    fun = lambda x, w: block(x, w)[0].sum()
    assert_same(jax.grad(bwsk_jax.reversible(fun), 1)(X, W[0]), jax.grad(fun, 1)(X, W[0]))


@pytest.mark.parametrize(
    "make", [bwsk_jax.reversible, functools.partial(bwsk_jax.reversible, max_overhead=INF)]
)
def test_closed_over_values_are_differentiated(make):
    def loss(w, make):
        fun = make(lambda x: jnp.tanh(x @ w) * w.sum())
        return jnp.sum(fun(X) ** 2)

    assert_same(jax.grad(loss)(W[0], make), jax.grad(loss)(W[0], lambda f: f))


def test_closed_over_values_of_a_scan_are_differentiated():
    def loss(closed, scan):
        w, n, key, table = closed
        noise = lambda c: jax.random.normal(key, c.shape)
        body = lambda c, x: (c + jnp.tanh(c @ w) * n + noise(c) * x + table.mean(0)[None, :H], None)
        return scan(body, X, jnp.arange(3.0))[0]

    closed = W[0], jnp.int32(2), KEY, random(8, 1000, 50)
    run = lambda scan: gradients(lambda c: loss(c, scan), closed)
    assert_same(run(LEAST), run(lax.scan))
