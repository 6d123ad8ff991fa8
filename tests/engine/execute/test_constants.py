"""What a gradient is not asked for is not differentiated, and nothing is kept for it."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.scipy import special

import bwsk_jax
from tests.support.parity import loss_of, random

X = random(0, 4, 8)
FIXED = jnp.float32(2.0)


def simulated(y):
    """A number from outside JAX, which therefore has no derivative."""
    return jax.pure_callback(lambda y: np.float32(y), jax.ShapeDtypeStruct((), jnp.float32), y)


NO_DERIVATIVE = {
    "a parameter of a special function": lambda x, a: special.betainc(a, a, jax.nn.sigmoid(x)),
    "a callback": lambda x, a: jnp.sin(x) * simulated(a),
    "the next float": lambda x, a: jnp.sin(x) * jnp.nextafter(a, 3.0),
}
HOW = {"eager": lambda f: f, "compiled": jax.jit}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("what", NO_DERIVATIVE)
def test_constants_may_be_read_by_what_has_no_derivative(what, how):
    fun = NO_DERIVATIVE[what]
    closing = bwsk_jax.reversible(lambda x: fun(x, FIXED))
    taking = functools.partial(bwsk_jax.reversible(fun), a=FIXED)
    body = lambda fun: lambda c, a: (fun(c, a) + fun(c, FIXED), None)
    scanning = lambda scan: lambda x: scan(body(fun), x, jnp.arange(1.0, 4.0))[0]
    grad = lambda f: HOW[how](jax.grad(lambda x: f(x).sum()))(X)
    expected = grad(lambda x: fun(x, FIXED))
    for ours in (closing, taking):
        np.testing.assert_allclose(grad(ours), expected, rtol=1e-6)
    np.testing.assert_allclose(grad(scanning(bwsk_jax.reversible_scan)), grad(scanning(lax.scan)), rtol=1e-5)


def test_a_derivative_that_nobody_asks_for_may_be_nan():
    fun = bwsk_jax.reversible(lambda x, y: jnp.sin(x) * (jnp.sqrt(y) * y))
    with jax.debug_nans(True):
        assert jax.grad(fun)(1.0, jnp.zeros(())) == 0


def body(consts, carry, x):
    """Each leaf of the carry comes to depend on others, `late` on `first` after two iterations alone."""
    (shift, scale), (first, middle, late, alone, count) = consts, carry
    w, b = x
    first, middle = first + jnp.tanh(middle @ w) * scale[None], middle + jnp.sin(first) + shift[None]
    return (first, middle, late + jnp.cos(middle - b[None]), 0.9 * alone, count + 1), (
        middle * b[None],
        jnp.exp(alone),
    )


ARGUMENTS = (
    (random(1, 8), 1 + random(2, 8)),
    (X, X + 1, X - 1, random(3, 4), jnp.int32(0)),
    (random(4, 3, 8, 8), random(5, 3, 8)),
)
FLOATS = [k for k, leaf in enumerate(jax.tree.leaves(ARGUMENTS)) if jnp.issubdtype(leaf.dtype, jnp.floating)]
SCANS = {
    "default": bwsk_jax.reversible_scan,
    "least memory": functools.partial(bwsk_jax.reversible_scan, max_overhead=bwsk_jax.LEAST_MEMORY),
    "segments": functools.partial(bwsk_jax.reversible_scan, save_every=2, max_bytes=600),
    "a plan that was given": lambda f, *args: bwsk_jax.reversible_scan(
        f, *args, plan=bwsk_jax.plan_scan(f, *args, max_bytes=300)
    ),
}


@pytest.mark.parametrize("way", SCANS)
@pytest.mark.parametrize(
    "asked_for", [{k} for k in FLOATS] + [set(p) for p in itertools.pairwise(FLOATS)], ids=str
)
def test_of_a_scan_with_respect_to_some_inputs(asked_for, way):
    leaves, tree = jax.tree.flatten(ARGUMENTS)

    def grad(scan):
        def loss(*chosen):
            given = dict(zip(sorted(asked_for), chosen, strict=True))
            consts, init, xs = tree.unflatten([given.get(k, leaf) for k, leaf in enumerate(leaves)])
            return loss_of(scan(functools.partial(body, consts), init, xs))

        return jax.grad(loss, range(len(asked_for)))(*(leaves[k] for k in sorted(asked_for)))

    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-4), grad(SCANS[way]), grad(lax.scan))


@pytest.mark.parametrize("asked_for", [(0,), (1,), (0, 1)])
def test_of_a_call_with_respect_to_some_inputs(asked_for):
    fun = lambda x, w: jnp.tanh(jnp.exp(x) @ w) * x
    mapped = lambda f: lambda xs, w: jax.vmap(f, (0, None))(xs, w).sum()
    grad = lambda f: jax.jit(jax.grad(mapped(f), asked_for))
    xs, w = random(6, 3, 4, 8), random(7, 8, 8)
    for how in {}, {"max_overhead": bwsk_jax.LEAST_MEMORY}, {"plan": bwsk_jax.plan(fun, X, w)}:
        ours = grad(bwsk_jax.reversible(fun, **how))(xs, w)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), ours, grad(fun)(xs, w))


BLOCKS = {
    "a call": bwsk_jax.reversible,
    "a scan": lambda f: (
        lambda p, q, c: bwsk_jax.reversible_scan(lambda c, _: (f(p, q, c), None), c, length=1)[0]
    ),
}
OVER = lambda scan: lambda f, p, q, c: scan(lambda c, pq: (f(*pq, c), None), c, (p, q))[0]
LOOPS = {
    "a scan": OVER(lax.scan),
    "a scan of ours": OVER(bwsk_jax.reversible_scan),
    "jit": lambda f, p, q, c: jax.jit(f)(p[0], q[0], c),
    "jax.checkpoint": lambda f, p, q, c: jax.checkpoint(f)(p[0], q[0], c),
}


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("block", BLOCKS)
def test_of_one_body_with_respect_to_one_thing_and_another(block, loop):
    """JAX traces a body once for all of its uses."""
    block = BLOCKS[block](plain := lambda p, q, c: jnp.sin(c * p) + jnp.tanh(c * q))
    p, q = random(10, 2, 8), random(11, 2, 8)

    def alternating(f):
        def loss(p, q):
            frozen_p, frozen_q = lax.stop_gradient((p, q))
            c = LOOPS[loop](f, p, frozen_q, jnp.ones(8))
            c = LOOPS[loop](f, frozen_p, q, c)
            return LOOPS[loop](f, p, frozen_q, c).sum()

        return jax.grad(loss, (0, 1))

    same = functools.partial(np.testing.assert_allclose, rtol=1e-5)
    jax.tree.map(same, alternating(block)(p, q), alternating(plain)(p, q))
    for which in (0, 1, 0, (0, 1), 1):
        grad = lambda f, which=which: jax.grad(lambda p, q: LOOPS[loop](f, p, q, p[0]).sum(), which)(p, q)
        jax.tree.map(same, grad(block), grad(plain))


def test_nothing_is_kept_for_weights_that_are_frozen():
    """The derivative of a block reads its first product, and that with respect to weights also the rest."""
    block = lambda x, w: (x + jnp.sin(x @ w[0]) @ w[1], None)
    x, weights = random(8, 64, 32), random(9, 6, 2, 32, 32)

    def flops(scan):
        grad = jax.grad(lambda x: loss_of(scan(block, x, weights, unroll=True)[0]))
        return jax.jit(grad).lower(x).compile().cost_analysis()["flops"]

    product = 2 * 64 * 32 * 32
    enough = functools.partial(bwsk_jax.reversible_scan, max_bytes=x.nbytes)
    assert flops(enough) < flops(lax.scan) + product


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_cotangents_of_a_cast_are_added_in_the_type_before_it(dtype):
    body = lambda w: lambda c, x: (c + jnp.tanh(w.astype(dtype)).astype(jnp.float32) * x, None)
    many = jnp.full((1000, 1), 1.1)
    scanned = lambda scan: jax.grad(lambda w: scan(body(w), jnp.zeros(2), many)[0].sum())(jnp.full(2, 0.5))
    np.testing.assert_allclose(scanned(bwsk_jax.reversible_scan), scanned(lax.scan), rtol=1e-3)

    def called(w):
        return sum((w.astype(dtype) * 1).astype(jnp.float32) for _ in range(400)).sum()

    np.testing.assert_array_equal(jax.grad(bwsk_jax.reversible(called))(jnp.ones(2)), jnp.full(2, 400.0))
