"""What nothing differentiates adds nothing to a gradient, not even where its derivative is infinite."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import bwsk_jax

ZEROS = jnp.zeros((3, 4))
CALLS = {
    "default": {},
    "least memory": {"max_overhead": bwsk_jax.LEAST_MEMORY},
    "no inverses": {"invert": False},
    "a policy": {"plan": jax.checkpoint_policies.dots_saveable},
}
SCANS = {
    "default": bwsk_jax.reversible_scan,
    "half of the values": functools.partial(bwsk_jax.reversible_scan, max_bytes=24),
    "least memory": functools.partial(bwsk_jax.reversible_scan, max_overhead=bwsk_jax.LEAST_MEMORY),
    "least memory without inverses": functools.partial(
        bwsk_jax.reversible_scan, max_overhead=bwsk_jax.LEAST_MEMORY, invert=False
    ),
    "segments": functools.partial(bwsk_jax.reversible_scan, save_every=2),
    "a policy": functools.partial(bwsk_jax.reversible_scan, plan=jax.checkpoint_policies.dots_saveable),
}
HOW = {
    "eager": lambda f: f,
    "compiled": jax.jit,
    "mapped": lambda f: lambda x: jax.vmap(f)(x[None])[0],
    "mapped and compiled": lambda f: lambda x: jax.jit(jax.vmap(f))(x[None])[0],
}


def with_metric(x):
    return ((x - 1) ** 2).sum(), {"norm": jnp.linalg.norm(x), "rows": x.shape[0]}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("way", CALLS)
def test_of_a_call(way, how):
    ours = jax.grad(bwsk_jax.reversible(with_metric, **CALLS[way]), has_aux=True)
    np.testing.assert_array_equal(HOW[how](lambda x: ours(x)[0])(ZEROS), -2 * jnp.ones_like(ZEROS))


BODIES = {
    "an output": (lambda c, x: (c * 0.5 + x, jnp.sqrt(x)), 0.0, lambda out: out[0]),
    "a carry": (lambda c, x: ((c[0] * 0.5 + x, c[1] + jnp.sqrt(x)), None), (0.0, 0.0), lambda out: out[0][0]),
    "a carry that reads another": (
        lambda c, x: ((c[1], c[0] + x, c[2] + jnp.sqrt(x) * c[0]), None),
        (0.0, 0.0, 0.0),
        lambda out: out[0][0],
    ),
    "an output of the carry": (lambda c, x: (c * 0.5 + x, jnp.sqrt(c * 0)), 0.0, lambda out: out[0]),
    "all carries": (lambda c, x: (c + jnp.sqrt(x), x**2 + x), 0.0, lambda out: out[1].sum(0)),
}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("way", SCANS)
@pytest.mark.parametrize("what", BODIES)
def test_of_a_scan(what, way, how):
    body, init, used = BODIES[what]
    init = jax.tree.map(lambda a: jnp.full(ZEROS.shape[1:], a), init)
    grad = lambda scan: jax.grad(lambda x: used(scan(body, init, x)).sum())
    expected = grad(lax.scan)(ZEROS)
    assert jnp.isfinite(expected).all()
    np.testing.assert_array_equal(HOW[how](grad(SCANS[way]))(ZEROS), expected)


def settled(x):
    """Through a `while_loop` JAX cannot pull a cotangent back."""
    return lax.while_loop(lambda s: jnp.sum(jnp.abs(s)) > 1, lambda s: s / 2, x)


LOOPS = {
    "an output": lambda w, scan: scan(lambda c, x: (jnp.sin(c) + w * x, settled(c)), w, ZEROS + 1),
    "an output, of constants": lambda w, scan: scan(
        lambda c, x: (jnp.sin(c) + w * x, settled(w)), w, ZEROS + 1
    ),
    "a loop in a loop": lambda w, scan: scan(
        lambda c, x: (jnp.sin(c) + w * x, lax.map(settled, w[None])), w, ZEROS + 1
    ),
    "a carry": lambda w, scan: scan(
        lambda c, x: ((jnp.sin(c[0]) + w * x, c[1] + settled(c[0])), None), (w, 0 * w), ZEROS + 1
    )[0],
}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("way", {**SCANS, "call": None})
@pytest.mark.parametrize("what", LOOPS)
def test_of_what_cannot_be_pulled_back(what, way, how):
    if way == "call":
        ours = lambda w: bwsk_jax.reversible(lambda w: LOOPS[what](w, lax.scan))(w)
    else:
        ours = lambda w: LOOPS[what](w, SCANS[way])
    grad = lambda f, k: jax.grad(lambda w: f(w)[k].sum())
    w = jnp.linspace(0.5, 1.0, 4)
    np.testing.assert_allclose(
        HOW[how](grad(ours, 0))(w), grad(lambda w: LOOPS[what](w, lax.scan), 0)(w), 1e-6
    )
    with pytest.raises(ValueError, match="Reverse-mode differentiation does not work"):
        HOW[how](grad(ours, 1))(w)


METRICS = {
    "an output": lambda w, scan: scan(
        lambda c, x: (jnp.sin(c) + x, jnp.linalg.norm(w)), jnp.ones(4), jnp.ones((3, 4))
    )[0],
    "a carry": lambda w, scan: scan(
        lambda c, x: ((jnp.sin(c[0]) + x, c[1] + jnp.linalg.norm(w)), None), (w, 0.0), jnp.ones((3, 4))
    )[0][0],
    "no iterations": lambda w, scan: scan(lambda c, x: (c * jnp.sqrt(w), None), w, jnp.ones((0, 4)))[0],
}


@pytest.mark.parametrize("way", SCANS)
@pytest.mark.parametrize("what", METRICS)
def test_of_what_is_computed_of_constants(what, way):
    grad = lambda scan: jax.grad(lambda w: METRICS[what](w, scan).sum() + w.sum())(jnp.zeros(4))
    np.testing.assert_allclose(grad(SCANS[way]), grad(lax.scan), rtol=1e-6)


def test_of_an_argument_of_a_call():
    fun = bwsk_jax.reversible(lambda x, y: (jnp.sin(x), jnp.cos(y)))
    assert jax.grad(lambda x: fun(x, jnp.sqrt(x))[0])(0.0) == 1


def test_a_second_derivative_of_what_is_used():
    loss = lambda f: lambda x: f(x)[0]
    hessian = lambda f: jax.jacrev(jax.grad(loss(f)))(ZEROS[0] + 2.0)
    np.testing.assert_allclose(hessian(bwsk_jax.reversible(with_metric)), hessian(with_metric))


def test_integers_and_keys_have_none_either():
    fun = lambda x, key: (jnp.sin(x), jax.random.split(key)[0], jnp.arange(3))
    grad = lambda f: jax.grad(lambda x: f(x, jax.random.key(0))[0].sum())(ZEROS + 1)
    np.testing.assert_allclose(grad(bwsk_jax.reversible(fun)), grad(fun))


@pytest.mark.parametrize("used", [0, 1, 2])
def test_of_a_scan_inside(used):
    def fun(x):
        (a, b), ys = lax.scan(lambda c, x: ((c[0] + jnp.sin(x), c[1] * x), c[0] * x), (0.0, 1.0), x)
        return a, b, ys.sum()

    grad = lambda f: jax.grad(lambda x: f(x)[used])(ZEROS[0] + 1)
    np.testing.assert_allclose(grad(bwsk_jax.reversible(fun)), grad(fun), rtol=1e-6)


def test_beside_a_scan_inside():
    def fun(x):
        return lax.scan(lambda c, x: (c + jnp.sin(x), None), 0.0, x)[0], jnp.linalg.norm(x)

    grad = lambda f: jax.grad(lambda x: f(x)[0])(ZEROS[0])
    np.testing.assert_allclose(grad(bwsk_jax.reversible(fun)), grad(fun))
    grad = lambda scan: jax.grad(lambda x: scan(lambda c, x: (c + fun(x)[0], fun(x)[1]), 0.0, x)[0])(ZEROS)
    np.testing.assert_allclose(grad(bwsk_jax.reversible_scan), grad(lax.scan))
