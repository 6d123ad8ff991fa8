"""Both under JAX transformations, with the same random bits and the same effects."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import bwsk_jax
from tests.support.parity import INF, INIT, LEAST, L, W, X, assert_same, both, gradients, loss_of
from tests.support.scan_bodies import block, coupling, dense


def scan_loss(scan, body=coupling):
    return lambda init, w: loss_of(scan(body, init, w))


TRANSFORMS = {
    "jit": lambda scan: jax.jit(jax.grad(scan_loss(scan), (0, 1)))(INIT, W),
    "jit of the scan": lambda scan: jax.grad(jax.jit(scan_loss(scan)), (0, 1))(INIT, W),
    "vmap over init": lambda scan: jax.vmap(jax.grad(scan_loss(scan), (0, 1)), (0, None))(
        jax.tree.map(lambda a: jnp.stack([a, 2 * a, 0 * a]), INIT), W
    ),
    "vmap over xs": lambda scan: jax.vmap(jax.grad(scan_loss(scan), (0, 1)), (None, 1))(
        INIT, jnp.stack([W, W * 2], 1)
    ),
    "grad of vmap": lambda scan: jax.grad(
        lambda w: jax.vmap(scan_loss(scan), (0, None))(
            jax.tree.map(lambda a: jnp.stack([a, 2 * a]), INIT), w
        ).sum()
    )(W),
    "vmap over closed-over": lambda scan: jax.vmap(
        jax.grad(lambda k: scan_loss(scan, lambda c, w: coupling(c, w * k))(INIT, W))
    )(jnp.asarray([0.5, 1.0])),
    "vmap of vmap": lambda scan: jax.vmap(
        jax.vmap(
            jax.grad(lambda k, m: scan_loss(scan, lambda c, w: coupling(c, w * k * m))(INIT, W)), (0, None)
        ),
        (None, 0),
    )(jnp.asarray([0.5, 1.0]), jnp.asarray([1.0, 0.0, 2.0])),
    "vmap over axis of size 1": lambda scan: jax.vmap(jax.grad(scan_loss(scan)), (0, None))(
        jax.tree.map(lambda a: a[None], INIT), W
    ),
    "grad of grad": lambda scan: jax.grad(lambda w: loss_of(jax.grad(scan_loss(scan), (0, 1))(INIT, w)))(W),
    "checkpoint around": lambda scan: jax.grad(jax.checkpoint(scan_loss(scan)), (0, 1))(INIT, W),
    "checkpoint around the gradient": lambda scan: jax.grad(
        jax.checkpoint(lambda w: loss_of(jax.grad(scan_loss(scan), 1)(INIT, w)))
    )(W),
    "in a cond": lambda scan: jax.grad(
        lambda w: lax.cond(w[0, 0, 0] > -9, scan_loss(scan), lambda i, w: w.sum(), INIT, w)
    )(W),
    "in a scan": lambda scan: jax.grad(
        lambda w: lax.scan(lambda c, k: (scan(coupling, c, w * k)[0], None), INIT, jnp.arange(3.0))[0][
            0
        ].sum()
    )(W),
    "its gradient in a while": lambda scan: lax.while_loop(
        lambda s: s[0] < 2,
        lambda s: (s[0] + 1, s[1] - 0.1 * jax.grad(scan_loss(scan), 1)(INIT, s[1])),
        (0, W),
    )[1],
    "jacrev": lambda scan: jax.jacrev(lambda x: scan(dense, x, W)[0].sum(0))(X),
    "linear transpose": lambda scan: jax.vjp(lambda w: scan(coupling, INIT, w)[0], W)[1]((X, X))[0],
    "gradient of some": lambda scan: jax.grad(lambda b: scan_loss(scan)((X, b), W))(X),
    "reversible around": lambda scan: jax.grad(
        bwsk_jax.reversible(scan_loss(scan)) if scan is not lax.scan else scan_loss(scan), 1
    )(INIT, W),
}


SLOW = {
    "jit of the scan",
    "vmap of vmap",
    "vmap over axis of size 1",
    "checkpoint around the gradient",
    "jacrev",
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in TRANSFORMS]
)
def test_transformations_compose(name):
    assert_same(*both(TRANSFORMS[name]))


@pytest.mark.slow
@pytest.mark.parametrize("every", [1, 2])
def test_second_derivatives_with_kept_carries(every):
    assert_same(
        TRANSFORMS["grad of grad"](functools.partial(LEAST, save_every=every)),
        TRANSFORMS["grad of grad"](lax.scan),
    )


@pytest.mark.parametrize("name", ["vmap over init", "vmap over xs", "grad of vmap"])
def test_mapped_scans_with_kept_carries(name):
    assert_same(TRANSFORMS[name](functools.partial(LEAST, save_every=2)), TRANSFORMS[name](lax.scan))


@pytest.mark.parametrize(
    "name",
    ["jit", *(pytest.param(n, marks=pytest.mark.slow) for n in ("vmap over closed-over", "grad of grad"))],
)
def test_no_tracer_leaks(name):
    with jax.checking_leaks():
        TRANSFORMS[name](LEAST)


def test_without_jit():
    with jax.disable_jit():
        ours = TRANSFORMS["jit"](LEAST)
        called = jax.grad(lambda x: loss_of(bwsk_jax.reversible(block)(x, W[0])))(X)
    assert_same(ours, TRANSFORMS["jit"](lax.scan))
    assert_same(called, jax.grad(lambda x: loss_of(block(x, W[0])))(X))


@pytest.mark.parametrize(
    ("impl", "how"),
    [
        *(("threefry2x32", "plain"), ("rbg", "vmap"), ("threefry2x32", "call"), ("rbg", "call")),
        *(
            pytest.param(*both, marks=pytest.mark.slow)
            for both in (("rbg", "plain"), ("threefry2x32", "vmap"))
        ),
    ],
)
def test_dropout_draws_the_same_bits_forward_and_backward(impl, how):
    def body(c, xs):
        w, key = xs
        kept = jax.random.bernoulli(key, 0.6, c.shape)
        return c + jnp.where(kept, jnp.tanh(c @ w) / 0.6, 0.0), None

    keys = jax.random.split(jax.random.key(2, impl=impl), L)
    if how == "call":
        fun = lambda x, w: body(x, (w, keys[0]))[0]
        run = lambda make: gradients(make(fun), X, W[0])
        assert_same(run(functools.partial(bwsk_jax.reversible, max_overhead=INF)), run(lambda f: f))
        return
    one = lambda scan, init: jax.grad(lambda i, w: loss_of(scan(body, i, (w, keys))[0]), (0, 1))(init, W)
    if how == "vmap":
        assert_same(*both(lambda scan: jax.vmap(functools.partial(one, scan))(jnp.stack([X, 2 * X]))))
    else:
        assert_same(*both(lambda scan: one(scan, X)))


def test_what_the_body_prints_is_printed_once(capfd):
    def body(c, w):
        jax.debug.print("seen {}", w[0, 0] * 0)
        return dense(c, w)[0], None

    jax.jit(jax.grad(lambda w: LEAST(body, X, w)[0].sum()))(W).block_until_ready()
    jax.effects_barrier()
    assert capfd.readouterr().out.count("seen") == L


def test_what_the_function_prints_is_printed_once(capfd):
    def fun(x):
        jax.debug.print("seen {}", x[0, 0] * 0)
        return jnp.sin(jnp.exp(x)).sum()

    jax.jit(jax.grad(bwsk_jax.reversible(fun, max_overhead=INF)))(X).block_until_ready()
    jax.effects_barrier()
    assert capfd.readouterr().out.count("seen") == 1


def test_a_mutable_array_inside():
    """JAX 0.10's own gradient of such a scan is wrong, so the truth is that of the same scan without it."""

    def with_sum(c, x):
        total = jax.new_ref(0.0)
        total[...] += c.sum()
        return jnp.sin(c) + x * total[...], None

    pure = lambda c, x: (jnp.sin(c) + x * c.sum(), None)
    grad = lambda scan, body: jax.grad(lambda xs: loss_of(scan(body, xs[0], xs)))(W)
    assert_same(grad(LEAST, with_sum), grad(lax.scan, pure))


KEYED = {
    "call": lambda x, keys: bwsk_jax.reversible(dropout)(jnp.sin(x), keys[0]),
    "least memory": lambda x, keys: LEAST(lambda c, key: (dropout(c, key), None), x, keys)[0],
    "segments": lambda x, keys: bwsk_jax.reversible_scan(
        lambda c, key: (dropout(c, key), None), x, keys, save_every=2, max_bytes=X.nbytes
    )[0],
}


def dropout(x, key):
    return jnp.sin(x) * jax.random.bernoulli(key, 0.5, x.shape)


@pytest.mark.parametrize("name", KEYED)
def test_to_draw_the_same_numbers_again_is_no_reuse_of_a_key(name):
    loss = lambda x: loss_of(KEYED[name](x, jax.random.split(jax.random.key(0), L)))
    grad = jax.jit(jax.grad(loss))
    with jax.debug_key_reuse(True):
        assert jnp.isfinite(grad(X)).all()


def test_a_second_derivative_through_what_stops_the_first():
    """A value that is recovered from what has no derivative would have none either."""
    body = lambda c, w: ((2 * lax.stop_gradient(c[1]), c[0] + jnp.sin(c[1] * w)), None)
    with jax.enable_x64():
        w = jnp.linspace(0.5, 1.5, L)
        loss = lambda scan: lambda w: sum(a**2 for a in scan(body, (w[0], w[1]), w)[0])
        hessian = lambda scan: jax.jacrev(jax.grad(loss(scan)))(w)
        assert_same(hessian(LEAST), hessian(lax.scan), rtol=1e-10)


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.complex128])
def test_carries_of_double_precision_may_be_kept(dtype):
    body = lambda c, w: ((c[1], c[0] + jnp.sin(c[1] * w)), None)
    with jax.enable_x64():
        w = jnp.linspace(0.5, 1.5, L)
        init = jnp.ones((2, 1), dtype)
        loss = lambda scan: (
            lambda w: sum(abs(a).sum() for a in scan(body, (init[0], init[1]), w.astype(dtype))[0])
        )
        kept = functools.partial(LEAST, save_every=2)
        assert_same(jax.grad(loss(kept))(w), jax.grad(loss(lax.scan))(w), rtol=1e-10)


MIXED = {
    "forwards over another argument": lambda f: jax.jacfwd(lambda w: jax.grad(f, 1)(w, X))(W),
    "compiled": lambda f: jax.jit(jax.jacfwd(lambda w: jax.grad(f, 1)(w, X)))(W),
    "forwards over both": lambda f: jax.jvp(jax.grad(f, 1), (W, X), (W, X)),
    "backwards over another argument": lambda f: jax.jacrev(lambda w: jax.grad(f, 1)(w, X))(W),
}


@pytest.mark.parametrize("name", MIXED)
def test_a_derivative_of_a_gradient_with_respect_to_something_else(name):
    scanned = lambda scan: lambda w, x: loss_of(scan(dense, x, w))
    assert_same(MIXED[name](scanned(LEAST)), MIXED[name](scanned(lax.scan)))
    block_of = lambda w, x: jnp.sin(x @ w[0]) @ w[1]
    called = lambda f: lambda w, x: loss_of(f(w, x))
    assert_same(MIXED[name](called(bwsk_jax.reversible(block_of))), MIXED[name](called(block_of)))
