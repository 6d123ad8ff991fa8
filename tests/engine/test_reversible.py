"""`reversible` and `reversible_scan` against plain autodiff: values, gradients, errors, random bits."""

import functools
import warnings

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import bwsk_jax

INF = float("inf")
LEAST = functools.partial(bwsk_jax.reversible_scan, max_overhead=INF)
B, H, L = 2, 4, 5


def random(seed, *shape, dtype=jnp.float32, scale=0.5):
    return (scale * jax.random.normal(jax.random.key(seed), shape)).astype(dtype)


W = random(0, L, H, H)
X = random(1, B, H, scale=1.0)


def is_float(leaf):
    return jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.inexact)


def loss_of(tree):
    """A real number that depends on every float of the tree."""
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree) if is_float(leaf)]
    return sum((jnp.sum(jnp.abs(jnp.sin(a + 0.3)) ** 2).astype(jnp.float32) for a in leaves), jnp.float32(0))


def gradients(fun, *args):
    """(value, gradients of the loss with respect to every float leaf of the arguments)."""
    leaves, tree = jax.tree.flatten(args)
    mask = [is_float(a) for a in leaves]

    def loss(varied):
        varied = iter(varied)
        out = fun(
            *jax.tree.unflatten(tree, [next(varied) if m else a for m, a in zip(mask, leaves, strict=True)])
        )
        return loss_of(out), out

    return jax.grad(loss, has_aux=True)([a for m, a in zip(mask, leaves, strict=True) if m])[::-1]


def raw(leaf):
    leaf = jnp.asarray(leaf)
    return np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)


def assert_same(ours, plain, rtol=1e-4):
    assert jax.tree.structure(ours) == jax.tree.structure(plain)
    for a, b in zip(map(raw, jax.tree.leaves(ours)), map(raw, jax.tree.leaves(plain)), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        if not is_float(b):
            np.testing.assert_array_equal(a, b)
            continue
        wide = np.complex128 if np.iscomplexobj(b) else np.float64
        a, b = a.astype(wide), b.astype(wide)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * max(1e-3, np.abs(b).max(initial=0)))


# --- bodies --------------------------------------------------------------------------------------------


def coupling(c, w):
    a = c[0] + jnp.tanh(c[1] @ w)
    return (a, c[1] + jnp.tanh(a @ w)), None


def dense(c, w):
    return jnp.tanh(c @ w), None


def with_outputs(c, w):
    h = jnp.tanh(c @ w)
    return c + h, {"h": h, "mean": c.mean(), "none": None}


def integers_and_keys(c, x):
    key, sub = jax.random.split(c["key"])
    kept = jax.random.bernoulli(sub, 0.7, c["h"].shape) & c["flag"]
    h = c["h"] + jnp.where(kept, jnp.sin(c["h"] @ x["w"]) * x["n"], 0.0)
    new = {"h": h, "count": c["count"] + x["n"], "flag": ~c["flag"] | x["on"], "key": key}
    return new, (c["count"], kept)


def passing_through(c, w):
    fixed, scale, moving = c
    return (fixed, scale, moving + jnp.tanh(moving @ w) * scale + fixed), fixed * 2


def rotating(c, w):
    return (c[1], c[2], c[0] + jnp.sin(c[1] @ w)), c[0]


def masked(c, w):
    a, b = c
    b = b + jax.nn.relu(a) @ w
    a = a + jnp.maximum(b, 0.0) - jnp.abs(b)
    return (a, b), None


def pooled(c, w):
    a, b = c
    top, where = lax.top_k(b, 2)
    best = jnp.argmax(b, -1, keepdims=True)
    a = a + jnp.sort(b, -1) * top.sum() + jnp.take_along_axis(b, best, -1) + where.sum()
    return (a, b + lax.reduce_window(b, -jnp.inf, lax.max, (1, 2), (1, 1), "SAME") @ w), None


@jax.custom_jvp
def steep(x):
    return jnp.sin(x)


steep.defjvp(lambda primals, tangents: (steep(primals[0]), 3.0 * tangents[0]))


@jax.custom_vjp
def scaled(x, k):
    return jnp.exp(x) * k


scaled.defvjp(lambda x, k: (jnp.exp(x) * k, (x, k)), lambda kept, ct: (7 * ct * jnp.cos(kept[0]), None))


def custom(c, w):
    return c + steep(c @ w) * 0.1 + scaled(jnp.tanh(c), jnp.int32(2)) * 0.1 + lax.stop_gradient(c) * jnp.sin(
        c
    ), None


def control_flow(c, w):
    h = lax.fori_loop(0, 2, lambda i, h: jnp.tanh(h @ w), c)
    h = lax.cond(w[0, 0] > 0, jnp.sin, jnp.cos, h)
    steps = lax.while_loop(lambda s: s < 3, lambda s: s + 1, jnp.int32(0))
    return c * 0.9 + h * steps, lax.scan(lambda s, x: (s + x, s), jnp.zeros(H), h)[1]


def nested(c, w):
    return LEAST(coupling, c, jnp.stack([w, w.T]))[0], c[0].sum()


def nested_plain(c, w):
    return lax.scan(coupling, c, jnp.stack([w, w.T]))[0], c[0].sum()


def unused(c, x):
    return (c[0] + 1.0, jnp.tanh(c[1])), None


def constant_outputs(c, w):
    return (jnp.zeros_like(c[0]), c[0] @ w), (1.0, w, jnp.arange(3))


def momentum(c, g):
    x, v = c
    v = 0.9 * v + jnp.tanh(x * g)
    return (x - 0.1 * v, v), None


def complex_rotation(c, w):
    return c * jnp.exp(1j * jnp.sin(jnp.real(c) @ w)) + jnp.conj(c) * 0.1, jnp.abs(c)


def remat_inside(c, w):
    return jax.checkpoint(lambda c: coupling(c, w)[0])(c), None


def half_precision(c, w):
    h = jnp.tanh(c.astype(jnp.float32) @ w)
    return c + h.astype(c.dtype), None


def mixed_types(c, w):
    a, b = c
    a = a + jnp.tanh(b.astype(jnp.float32) @ w)
    return (a, b + jnp.sin(a).astype(jnp.bfloat16)), a.astype(jnp.bfloat16)


KEY = jax.random.key(7)
CASES = {
    "coupling": (coupling, (X, X + 1), W, None),
    "dense": (dense, X, W, None),
    "outputs": (with_outputs, X, W, None),
    "integers, bools and keys": (
        integers_and_keys,
        {"h": X, "count": jnp.int32(0), "flag": jnp.asarray(True), "key": KEY},
        {"w": W, "n": jnp.arange(L, dtype=jnp.int32), "on": jnp.arange(L) % 2 == 0},
        None,
    ),
    "passing through": (passing_through, (X, jnp.float32(0.3), X * 2), W, None),
    "rotating": (rotating, (X, X + 1, X - 1), W, None),
    "masks and exact zeros": (
        masked,
        (X * jnp.asarray([0.0, 1, 1, 0])[None], X * jnp.asarray([0.0, 0, 1, 1])[None]),
        W,
        None,
    ),
    "top_k, sort, argmax, max-pool": (pooled, (X, jnp.round(X)), W * 0.1, None),
    "custom derivatives": (custom, X, W, None),
    "control flow": (control_flow, X, W, None),
    "remat inside": (remat_inside, (X, X), W, None),
    "unused": (unused, (X, X), (W, jnp.arange(L)), None),
    "constants out": (constant_outputs, (X, X), W, None),
    "momentum": (momentum, (X, X * 0.1), random(3, L, B, H), None),
    "no xs": (lambda c, _: (jnp.tanh(c) + 0.5, c.sum()), X, None, 4),
    "empty xs": (lambda c, _: (jnp.tanh(c) + 0.5, None), X, {"a": None, "b": ()}, 4),
    "empty carry": (lambda _, w: (None, jnp.sin(w)), None, W, None),
    "no float in the carry": (lambda n, w: (n + 1, jnp.sin(w) * n), jnp.int32(0), W, None),
    "length 0": (dense, X, W[:0], None),
    "length 1": (coupling, (X, X), W[:1], None),
    "weak types": (lambda c, x: ((c[0] + x, c[1] * 2 + 1), c[0]), (0.0, 1), jnp.arange(3.0), None),
    "complex": (complex_rotation, (random(4, B, H) + 1j * random(5, B, H)), W, None),
    "zero-sized": (dense, jnp.zeros((0, H)), W, None),
    "unrolled shapes": (
        lambda c, w: (c.reshape(-1)[::-1].reshape(B, H).T.reshape(B, H) * w, c.T),
        X,
        random(6, L, B, H),
        None,
    ),
}
OPTIONS = {
    "default": {},
    "least memory": {"max_overhead": INF},
    "no recomputation": {"max_overhead": 0.0},
    "every": {"max_overhead": INF, "save_every": 1},
    "every other": {"max_overhead": INF, "save_every": 2},
    "without inverses": {"max_overhead": INF, "invert": False},
}


@functools.cache
def plain_gradients(name):
    body, init, xs, length = CASES[name]
    return gradients(lambda i, x: lax.scan(body, i, x, length), init, xs)


@pytest.mark.parametrize("options", ["default", "least memory", "every other"])
@pytest.mark.parametrize("name", CASES)
def test_a_scan_has_the_values_and_gradients_of_lax_scan(name, options):
    body, init, xs, length = CASES[name]
    scan = functools.partial(bwsk_jax.reversible_scan, **OPTIONS[options])
    assert_same(gradients(lambda i, x: scan(body, i, x, length), init, xs), plain_gradients(name))
    jax.effects_barrier()


@pytest.mark.parametrize(
    ("every", "length"), [(1, 1), (1, 6), (2, 1), (3, 6), (3, 7), (6, 6), (7, 8), (100, 3)]
)
def test_carries_may_be_kept_however_often(every, length):
    w, scan = random(0, length, H, H), functools.partial(LEAST, save_every=every)
    run = lambda scan: gradients(lambda i, x: scan(with_outputs, i, x), X, w)
    assert_same(run(scan), run(lax.scan))


@pytest.mark.parametrize("options", ["no recomputation", "every", "without inverses"])
@pytest.mark.parametrize("name", ["coupling", "integers, bools and keys", "masks and exact zeros"])
def test_every_option_keeps_the_gradient(name, options):
    test_a_scan_has_the_values_and_gradients_of_lax_scan(name, options)


def test_a_scan_inside_a_scan():
    run = lambda scan, body: gradients(lambda i, x: scan(body, i, x), (X, X), W)
    assert_same(run(LEAST, nested), run(lax.scan, nested_plain))


@pytest.mark.parametrize(("dtype", "rtol"), [(jnp.bfloat16, 6e-2), (jnp.float16, 1e-2)])
@pytest.mark.parametrize("body", [half_precision, dense], ids=["computed wide", "computed narrow"])
def test_narrow_carries(dtype, rtol, body):
    w = W.astype(dtype) if body is dense else W
    run = lambda scan: gradients(lambda i, x: scan(body, i, x), X.astype(dtype), w)
    assert_same(run(functools.partial(LEAST, save_every=3)), run(lax.scan), rtol)


def test_carries_of_different_types():
    run = lambda scan: gradients(lambda i, x: scan(mixed_types, i, x), (X, X.astype(jnp.bfloat16)), W)
    ours = []
    warned(lambda: ours.append(run(LEAST)))  # the wide carry follows the narrow one's rounding, and says so
    assert_same(ours[0], run(lax.scan), 6e-2)


@pytest.mark.parametrize("body", [coupling, momentum], ids=["coupling", "momentum"])
def test_double_precision_is_recovered_to_double_precision(body):
    with jax.enable_x64(True):
        wide = lambda a: jnp.asarray(np.asarray(a, np.float64))
        init, xs = (wide(X), wide(X) + 1), wide(W if body is coupling else random(3, L, B, H))
        run = lambda scan: gradients(lambda i, x: scan(body, i, x), init, xs)
        assert_same(run(LEAST), run(lax.scan), 1e-12)


# --- calls ---------------------------------------------------------------------------------------------


def block(x, w):
    h = jax.nn.gelu(x @ w, approximate=False)
    return jnp.where(h > 0.1, h, 0.0) @ w.T + x, h.astype(jnp.bfloat16)


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


@pytest.mark.parametrize("limit", [None, 0.0, INF], ids=["default", "no recomputation", "least memory"])
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


# --- transformations -----------------------------------------------------------------------------------


def both(make):
    """The same computation by us and by JAX."""
    return make(LEAST), make(lax.scan)


def scan_loss(scan, body=coupling):
    return lambda init, w: loss_of(scan(body, init, w))


INIT = (X, X + 1)
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


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transformations_compose(name):
    assert_same(*both(TRANSFORMS[name]))


@pytest.mark.parametrize("every", [1, 2])
def test_second_derivatives_with_kept_carries(every):
    assert_same(
        TRANSFORMS["grad of grad"](functools.partial(LEAST, save_every=every)),
        TRANSFORMS["grad of grad"](lax.scan),
    )


@pytest.mark.parametrize(
    "name", ["jit", "vmap over closed-over", pytest.param("grad of grad", marks=pytest.mark.slow)]
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


@pytest.mark.parametrize("how", ["plain", "vmap", "call"])
@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
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


# --- effects -------------------------------------------------------------------------------------------


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


# --- errors --------------------------------------------------------------------------------------------

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


FORWARD = {
    "jvp": lambda f: jax.jvp(f, (X,), (X,)),
    "jacfwd": lambda f: jax.jacfwd(f)(X),
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


# --- drift ---------------------------------------------------------------------------------------------


def warned(fun):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        jax.block_until_ready(fun())
        jax.effects_barrier()
    return [w for w in seen if issubclass(w.category, bwsk_jax.ReconstructionWarning)]


def burying(size):
    def body(c, w):
        a, b = c
        a = a + size * jnp.tanh(b @ w)
        return (a, b + jnp.tanh(a / size @ w)), None

    return body


@pytest.mark.parametrize("how", ["eager", "jit", "vmap"])
def test_a_buried_carry_is_reported_once(how):
    grad = jax.grad(lambda w: loss_of(LEAST(burying(1e9), INIT, w)))
    runs = {"eager": grad, "jit": jax.jit(grad), "vmap": lambda w: jax.vmap(grad)(jnp.stack([w, w]))}
    assert len(warned(lambda: runs[how](W))) == 1


@pytest.mark.parametrize("every", [1, 2])
def test_keeping_carries_ends_the_drift_of_later_segments(every):
    grad = lambda scan: jax.grad(lambda w: loss_of(scan(burying(3e2), INIT, w)[0][1]))(W)
    drifted = grad(LEAST)
    kept = grad(functools.partial(LEAST, save_every=every))
    plain = grad(lax.scan)
    distance = lambda g: float(jnp.linalg.norm(g - plain))
    assert distance(kept) <= distance(drifted)


def test_keeping_every_carry_recovers_it_exactly():
    grad = lambda scan: jax.grad(lambda w: loss_of(scan(with_outputs, X, w)))(W)
    assert not warned(lambda: grad(functools.partial(LEAST, save_every=1)))


@pytest.mark.parametrize(
    "name", ["coupling", "rotating", "momentum", "masks and exact zeros", "integers, bools and keys"]
)
def test_healthy_scans_are_quiet(name):
    body, init, xs, length = CASES[name]
    assert not warned(lambda: gradients(lambda i, x: LEAST(body, i, x, length), init, xs)[1])


def test_a_strong_damping_is_not_undone():
    body = lambda c, x: (c * 0.1 + x, None)
    xs = random(9, 200, B, H)
    run = lambda scan: jax.grad(lambda i, x: jnp.sum(jnp.sin(scan(body, i, x)[0])), (0, 1))(X, xs)
    assert not warned(lambda: run(LEAST))
    assert_same(run(LEAST), run(lax.scan))


# --- random programs -----------------------------------------------------------------------------------

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
