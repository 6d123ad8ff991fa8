"""What is refused, and how it is said."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import bwsk_jax
from tests.support.parity import INF, LEAST, W, X, assert_same, gradients, loss_of, random
from tests.support.scan_bodies import dense

WRONG = {
    "shape": (lambda c, x: (jnp.concatenate([c, c]), None), X, jnp.arange(3.0), None),
    "dtype": (lambda c, x: (c.astype(jnp.bfloat16), None), X, jnp.arange(3.0), None),
    "structure": (lambda c, x: ((c, c), None), X, jnp.arange(3.0), None),
    "no pair": (lambda c, x: c, X, jnp.arange(3.0), None),
    "no length": (lambda c, x: (c, None), X, None, None),
    "lengths differ": (lambda c, x: (c, None), X, (jnp.arange(3.0), jnp.arange(4.0)), None),
    "length and xs differ": (lambda c, x: (c, None), X, jnp.arange(3.0), 4),
}


@pytest.mark.parametrize("name", WRONG)
def test_errors_are_those_of_lax_scan(name):
    messages = []
    for scan in (lax.scan, LEAST):
        with pytest.raises((TypeError, ValueError)) as caught:
            scan(*WRONG[name])
        messages.append((caught.type, str(caught.value)))
    assert messages[0] == messages[1]


def scanned(f, x):
    return lax.scan(lambda carry, _: (f(carry), None), x, length=2)[0]


FORWARD = {
    "jvp": lambda f: jax.jvp(f, (X,), (X,)),
    "jacfwd": lambda f: jax.jacfwd(f)(X),
    "compiled": lambda f: jax.jit(lambda x: jax.jvp(f, (x,), (x,)))(X),
    "of a compiled function": lambda f: jax.jvp(jax.jit(f), (X,), (X,)),
    "linearize": lambda f: jax.linearize(f, X)[1](X),
    "inside a scan": lambda f: jax.jit(lambda x: jax.jvp(lambda x: scanned(f, x), (x,), (x,)))(X),
    "of a vmap": lambda f: jax.jvp(jax.vmap(f), (X[None],), (X[None],)),
}


@pytest.mark.parametrize("how", FORWARD)
@pytest.mark.parametrize(
    ("fun", "name"),
    [
        (lambda x: LEAST(dense, x, W)[0], "bwsk_jax.reversible_scan"),
        (bwsk_jax.reversible(jnp.sin), "bwsk_jax.reversible"),
    ],
    ids=["scan", "call"],
)
def test_forward_mode_says_why_not(fun, name, how):
    with pytest.raises(TypeError, match="forward-mode") as caught:
        FORWARD[how](fun)
    assert name in str(caught.value) and "jax.grad" in str(caught.value)


@pytest.mark.parametrize("make", [lambda: LEAST, lambda: lax.scan], ids=["ours", "plain"])
def test_forward_over_reverse_is_a_second_derivative(make):
    f = lambda x: loss_of(make()(dense, x, W[:2])[0])
    vector = jnp.ones_like(X)
    got = jax.jvp(jax.grad(f), (X,), (vector,))[1]
    assert_same(
        got, jax.grad(lambda x: jnp.sum(jax.grad(lambda x: loss_of(lax.scan(dense, x, W[:2])[0]))(x)))(X)
    )


@pytest.mark.parametrize("every", [0, -1])
def test_save_every_is_positive(every):
    with pytest.raises(ValueError, match="save_every must be at least 1"):
        LEAST(dense, X, W, save_every=every)


def test_save_every_is_an_integer():
    with pytest.raises(TypeError, match=r"save_every must be an integer, got 2\.5"):
        LEAST(dense, X, W, save_every=2.5)


def test_an_error_of_the_function_is_the_functions():
    def fun(x):
        raise TypeError("mine")

    with pytest.raises(TypeError, match=r"^mine"):
        bwsk_jax.reversible(fun)(X)
    with pytest.raises(TypeError, match=r"^mine"):
        LEAST(lambda c, x: fun(c), X, W)


@pytest.mark.parametrize("limit", [None, 0.1, INF])
def test_a_narrow_copy_of_a_value_does_not_blur_its_wide_use(limit):
    def fun(x, w, v):
        h = 300 * (x @ w)
        return jnp.sin(h).sum() + jnp.tanh(h.astype(jnp.bfloat16) @ v).astype(jnp.float32).sum()

    args = random(13, 8, 64), random(14, 64, 64, scale=0.1), random(15, 64, 64, dtype=jnp.bfloat16)
    assert_same(gradients(bwsk_jax.reversible(fun, max_overhead=limit), *args), gradients(fun, *args))


def test_too_few_bytes_say_the_least():
    with pytest.raises(bwsk_jax.PlanError, match="32 bytes"):
        jax.grad(lambda x: bwsk_jax.reversible_scan(dense, x, W, max_bytes=31)[0].sum())(X)


def test_sizes_that_are_no_numbers():
    (b,) = jax.export.symbolic_shape("b")
    x = jax.ShapeDtypeStruct((b, *X.shape[1:]), X.dtype)
    for run in (bwsk_jax.reversible(jnp.sin), lambda x: LEAST(dense, x, W)[0]):
        values = jax.export.export(jax.jit(run))(x).call(X)
        assert_same(values, run(X), rtol=1e-6)
        with pytest.raises(TypeError, match=r"float32\[b,4\] has a size that is not a number"):
            jax.export.export(jax.jit(jax.grad(lambda x, run=run: run(x).sum())))(x)


def test_a_mutable_array_that_is_closed_over():
    def loss(x, scan):
        count = jax.new_ref(0.0)

        def counted(c, x):
            count[...] += 1.0
            return jnp.sin(c) + x, None

        return scan(counted, x[0], x)[0].sum(), count[...]

    assert loss(X, LEAST)[1] == len(X)
    with pytest.raises(TypeError, match="would change a mutable array"):
        jax.grad(loss, has_aux=True)(X, LEAST)
