"""A carry that is lost on the way back is reported, and only then."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import bwsk_jax
from bwsk_jax.engine.execute.drift import DriftAlarm
from tests.support.parity import INIT, LEAST, B, H, L, W, X, assert_same, gradients, loss_of, random, warned
from tests.support.scan_bodies import CASES, momentum, with_outputs


def burying(size):
    def body(c, w):
        a, b = c
        a = a + size * jnp.tanh(b @ w)
        return (a, b + jnp.tanh(a / size @ w)), None

    return body


def buried_loss(w):
    return loss_of(LEAST(burying(1e9), INIT, w))


LOST = {
    "eager": lambda: jax.grad(buried_loss)(W),
    "vmap": lambda: jax.vmap(jax.grad(buried_loss))(jnp.stack([W, W])),
    "vmap of vmap": lambda: jax.vmap(jax.vmap(jax.grad(buried_loss)))(jnp.stack([W, W])[None]),
    "a second derivative": lambda: jax.grad(lambda w: loss_of(jax.grad(buried_loss)(w)))(W),
    "without jit": lambda: without_jit(jax.jit(jax.grad(buried_loss))),
}
LOST_WHEN_COMPILED = {
    "jit": lambda: jax.jit(jax.grad(buried_loss))(W),
    "gradient of jit": lambda: jax.grad(jax.jit(buried_loss))(W),
    "vmap": lambda: jax.jit(jax.vmap(jax.grad(buried_loss)))(jnp.stack([W, W])),
    "a second derivative": lambda: jax.jit(jax.grad(lambda w: loss_of(jax.grad(buried_loss)(w))))(W),
    "a derivative of the gradient": lambda: jax.jvp(jax.jit(jax.grad(buried_loss)), (W,), (W,))[1],
}


def without_jit(fun):
    with jax.disable_jit():
        return fun(W)


SLOW = {"vmap of vmap", "a second derivative"}


@pytest.mark.parametrize("how", [pytest.param(how, marks=[pytest.mark.slow] * (how in SLOW)) for how in LOST])
def test_a_buried_carry_is_reported_once(how):
    gradient = []
    assert len(warned(lambda: gradient.append(LOST[how]()))) == 1
    assert jnp.isnan(gradient[0]).all()


@pytest.mark.parametrize("how", LOST_WHEN_COMPILED)
def test_a_buried_carry_spoils_a_compiled_gradient(how):
    assert jnp.isnan(LOST_WHEN_COMPILED[how]()).all()


@pytest.mark.parametrize("how", ["jit", "gradient of jit", "vmap"])
def test_where_nans_are_looked_for_a_compiled_gradient_says_what_it_lost(how):
    def fails():
        with jax.debug_nans(True), pytest.raises(FloatingPointError):
            LOST_WHEN_COMPILED[how]()

    assert warned(fails)


@pytest.mark.parametrize(
    ("dtype", "size"),
    [(jnp.float32, 1e20), (jnp.float32, 1e-25), (jnp.float64, 1e250), (jnp.float64, 1e-250)],
)
def test_a_carry_is_lost_however_large_or_small_its_elements_are(dtype, size):
    body = lambda c, x: (c + x, (c * (1 / size)) ** 2)
    with jax.enable_x64(dtype == jnp.float64):
        far = float(jnp.finfo(dtype).eps) ** -1.5
        init, xs = size * jnp.array([1, 2], dtype), size * jnp.array([[far] * 2, [0, 0]], dtype)
        lost = jax.grad(lambda init: LEAST(body, init, xs)[1][0].sum())
        assert len(warned(lambda: lost(init))) == 1
        assert not warned(lambda: jax.grad(lambda init: LEAST(body, init, 0 * xs)[1][0].sum())(init))


SHAPES = [(), (3,), (5000,), (7, 5), (3, 400), (4, 5, 6, 70), (300, 3)]
ERRORS = {
    "dense": lambda key, shape: jax.random.normal(key, shape),
    "constant": lambda key, shape: jnp.ones(shape),
    "of one element": lambda key, shape: jnp.zeros(shape).ravel().at[-1].set(1.0).reshape(shape),
    "of two elements": lambda key, shape: jnp.zeros(shape).ravel().at[:2].set((1, -1)).reshape(shape),
}


@pytest.mark.parametrize(
    ("error", "shape"), [(e, s) for e in ERRORS for s in SHAPES if s or e != "of two elements"]
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.complex64])
def test_what_is_kept_of_a_start_tells_how_far_another_is_from_it(error, shape, dtype):
    """To be off by a factor of 6 would be a rare accident, and these are fixed draws."""
    alarm, keys = DriftAlarm((0,), 0.0), jax.random.split(jax.random.key(0))
    start = (0.5 + jax.random.normal(keys[0], shape)).astype(dtype)
    error = ERRORS[error](keys[1], shape)
    tolerance = float(jnp.finfo(dtype).eps) ** 0.5
    measure = jax.jit(lambda found: alarm.measure([found], alarm.start([start]), alarm.end([start])))
    for times, lost in ((12, True), (1 / 3, False)):
        apart = times * tolerance * jnp.linalg.norm(start.astype(jnp.complex64)) / jnp.linalg.norm(error)
        found = (start + apart.astype(dtype) * error.astype(dtype)).astype(dtype)
        assert (float(measure(found)) > 0) == lost


@pytest.mark.parametrize("value", [0.0, -float(jnp.finfo(jnp.float32).max)])
@pytest.mark.parametrize("shape", [(), (3000, 2), (4, 5000)])
def test_a_carry_of_the_largest_or_least_floats_that_came_back_is_not_lost(value, shape):
    alarm, carry = DriftAlarm((0,), 0.0), [jnp.full(shape, value)]
    assert alarm.measure(carry, alarm.start(carry), alarm.end(carry)) == 0


def test_of_the_first_carry_nothing_is_kept_but_a_sketch():
    def kept(length):
        carry = jax.ShapeDtypeStruct((4, 512), jnp.float32)
        body = lambda c, _: ((c[1], c[0] + jnp.tanh(c[1])), None)
        scan = lambda carry: LEAST(body, carry, None, length)[0]
        pull = jax.eval_shape(lambda carry: jax.vjp(scan, carry)[1], (carry, carry))
        return sum(leaf.size for leaf in jax.tree.leaves(pull))

    assert 2 * 4 * 512 <= kept(3) < 1.1 * 2 * 4 * 512


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("every", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_a_carry_that_is_lost_between_two_that_are_kept_is_noticed(every, mapped):
    loss = lambda w: loss_of(LEAST(burying(1e9), INIT, w, save_every=every))
    found = []
    run = lambda: jax.vmap(jax.grad(loss))(W[None]) if mapped else jax.grad(loss)(W)
    assert len(warned(lambda: found.append(run()))) == 1
    assert jnp.isnan(found[0]).all()


def test_where_nans_are_looked_for_a_healthy_scan_is_quiet():
    """Also one whose carry starts and ends at 0, which the measure of drift divides by."""
    init = jax.tree.map(jnp.zeros_like, INIT)
    with jax.debug_nans(True):
        assert jnp.isfinite(jax.grad(lambda w: loss_of(LEAST(burying(1.0), init, w)))(W)).all()


def test_every_argument_of_a_scan_that_lost_its_carry_has_a_gradient_that_is_nan():
    def loss(arguments):
        init, w, scale = arguments
        return loss_of(LEAST(lambda c, w: burying(1e9 * scale)(c, w), init, w))

    found = jax.jit(jax.grad(loss))((INIT, W, jnp.float32(1)))
    assert all(bool(jnp.isnan(leaf).all()) for leaf in jax.tree.leaves(found))


def test_of_mapped_scans_those_alone_are_spoiled_that_lost_their_carry():
    loss = lambda scan, size: lambda w: loss_of(scan(burying(size), INIT, w))
    grads = lambda scan: jax.jit(jax.vmap(lambda size: jax.grad(loss(scan, size))(W)))
    healthy, lost = grads(LEAST)(jnp.asarray([1.0, 1e9]))
    assert jnp.isnan(lost).all()
    assert_same(healthy, grads(lax.scan)(jnp.ones(1))[0])


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 5])
def test_keeping_carries_ends_the_drift_of_later_segments(every):
    """Damping by 0.9 multiplies an error by 1 / 0.9 in each iteration back: over 60 of them by 556."""
    xs = random(3, 60, B, H)
    grad = lambda scan: jax.grad(lambda g: loss_of(scan(momentum, (X, X * 0.1), g)))(xs)
    plain = grad(lax.scan)
    distance = lambda scan: float(jnp.linalg.norm(grad(scan) - plain))
    assert distance(functools.partial(LEAST, save_every=every)) <= 0.2 * distance(LEAST)


def test_keeping_every_carry_recovers_it_exactly():
    grad = lambda scan: jax.grad(lambda w: loss_of(scan(with_outputs, X, w)))(W)
    assert not warned(lambda: grad(functools.partial(LEAST, save_every=1)))


@pytest.mark.parametrize(
    "name",
    [
        *("coupling", "masks and exact zeros", "integers, bools and keys"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("rotating", "momentum")),
    ],
)
def test_healthy_scans_are_quiet(name):
    body, init, xs, length = CASES[name]
    assert not warned(lambda: gradients(lambda i, x: LEAST(body, i, x, length), init, xs)[1])


@pytest.mark.parametrize(
    ("value", "where", "every"),
    [
        *itertools.product((jnp.nan, jnp.inf), ("init", "xs"), (None,)),
        (jnp.nan, "init", 2),
        (jnp.nan, "xs", 2),
    ],
)
def test_a_row_that_is_not_finite_is_the_users_own(value, where, every):
    """It spoils its own row of the carry, as in plain autodiff, and none of the others."""
    body = lambda c, x: ((c[0] + jnp.tanh(c[1] * x), c[1] + jnp.sin(c[0])), None)
    a, xs = X, random(4, L, B, H)
    if where == "init":
        a = a.at[0].set(value)
    else:
        xs = xs.at[2, 0].set(jnp.nan)
    run = lambda scan: jax.grad(lambda a: loss_of(scan(body, (a, X), xs)[0]))(a)
    ours = functools.partial(LEAST, save_every=every)
    assert not warned(lambda: run(ours))
    np.testing.assert_allclose(run(ours)[1:], run(lax.scan)[1:], rtol=1e-4)


def test_drift_beside_a_row_that_is_not_finite_is_reported():
    init = jax.tree.map(lambda a: a.at[0].set(jnp.nan), INIT)
    assert len(warned(lambda: jax.grad(lambda w: loss_of(LEAST(burying(1e9), init, w)))(W))) == 1


def test_a_strong_damping_is_not_undone():
    body = lambda c, x: (c * 0.1 + x, None)
    xs = random(9, 200, B, H)
    run = lambda scan: jax.grad(lambda i, x: jnp.sum(jnp.sin(scan(body, i, x)[0])), (0, 1))(X, xs)
    assert not warned(lambda: run(LEAST))
    assert_same(run(LEAST), run(lax.scan))


def test_a_wide_carry_under_a_narrow_branch_drifts_by_its_rounding():
    """Where the last digit of a float32 carry tips a bfloat16 value, the forward pass was no more certain."""

    def body(c, w):
        narrow = lambda x: jnp.tanh(2 * x.astype(jnp.bfloat16) @ w).astype(jnp.float32)
        a = c[0] + narrow(c[1])
        return (a, c[1] + narrow(a)), None

    w = random(0, 8, 64, 64, dtype=jnp.bfloat16, scale=0.125)
    init = random(3, 64, 64), random(4, 64, 64)
    grad = lambda scan: jax.grad(lambda i: loss_of(scan(body, i, w)[0]))(init)
    ours = []
    assert not warned(lambda: ours.append(grad(LEAST)))
    assert_same(ours[0], grad(lax.scan), 2e-2)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, pytest.param(jnp.float16, marks=pytest.mark.slow)])
def test_a_narrow_carry_is_saved_rather_than_recovered_with_its_rounding(dtype):
    """Twelve couplings: their gradient is no further from float32's than plain autodiff's."""

    def coupling(c, w):
        a = c[0] + jnp.tanh(c[1] @ w[0])
        return (a, c[1] + jnp.tanh(a @ w[1])), None

    def gradient(scan, dtype):
        init = random(3, 32, 64, dtype=dtype), random(4, 32, 64, dtype=dtype)
        weights = random(0, 12, 2, 64, 64, dtype=dtype, scale=0.125)
        wide = lambda carry: jax.tree.map(lambda a: a.astype(jnp.float32), carry)
        return jax.grad(lambda i, w: loss_of(wide(scan(coupling, i, w)[0])), (0, 1))(init, weights)

    def distance(ours):
        pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(true), strict=True)
        return sum(float(jnp.sum((a.astype(jnp.float32) - b) ** 2)) for a, b in pairs) ** 0.5

    true = gradient(lax.scan, jnp.float32)
    assert distance(gradient(LEAST, dtype)) <= 1.1 * distance(gradient(lax.scan, dtype))
    half = jax.ShapeDtypeStruct((32, 64), dtype)
    weights = jax.ShapeDtypeStruct((12, 2, 64, 64), dtype)
    plan = bwsk_jax.plan_scan(coupling, (half, half), weights, max_overhead=float("inf"))
    assert plan.saved_bytes == 2 * 32 * 64 * 2


def test_the_check_promotes_nothing_where_jax_must_not():
    with jax.numpy_dtype_promotion("strict"):
        grad = lambda scan: jax.grad(lambda w: loss_of(scan(burying(1.0), INIT, w)))(W)
        grads = grad(LEAST), grad(lax.scan)
    assert_same(*grads)
