"""Random programs, planned at random limits, have the gradient of plain autodiff.

    pytest tests/engine/test_random_programs.py                                              20 programs
    pytest tests/engine/test_random_programs.py -m "" --hypothesis-profile full              255
    pytest tests/engine/test_random_programs.py -m "" --hypothesis-profile thorough --timeout 0
                                                                                             10,200 others

They run operation by operation: compiling each would take most of the time. Passed over is a program whose
gradient is not finite, or which differs while the plain gradient moves as far when the arguments move by no
more than a recovered value may be off (`epsilon**(2/3)`).
"""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import bwsk_jax
from tests.support.damage import damaged
from tests.support.parity import INF, warned
from tests.support.random_programs import BINARY, CASTS, FRAMES, UNARY, N, lines, matrix, program_of

LIMITS = st.sampled_from([0.0, 0.01, 0.05, 0.2, INF])
BOTH = (0, 1)
ASKED_FOR = st.sampled_from([BOTH, BOTH, (0,), (1,)])
"""The arguments that a gradient is asked for."""
X, Y, W = (matrix() for _ in range(3))
ZEROS = np.where(np.abs(X) < 0.5, 0.0, X)  # in every row some, in none all
COTANGENTS = np.sin(np.arange(N * N) * 7.0)
TYPES = {"float32": (jnp.float32, 1e-3), "float64": (jnp.float64, 1e-6)}
"""The type of a program, and how far its gradient may be off, as a fraction of the largest element."""

NARROW = [jnp.bfloat16, jnp.float16]
REAL = {name: fun for name, fun in UNARY.items() if name != "complex"}  # there are no narrow complex numbers
# XLA's gradient of a max pool is another where its windows overlap on two devices, in plain autodiff too.
SPLIT = {name: fun for name, fun in UNARY.items() if name != "max pool"}


def share(divisor):
    """Fewer examples than the profile has, where each takes longer."""
    return hypothesis.settings(max_examples=max(1, hypothesis.settings().max_examples // divisor))


def gradient(run, args, asked_for=BOTH):
    """The cotangents of those arguments, from fixed ones of the results."""

    def of(*chosen):
        given = dict(zip(asked_for, chosen, strict=True))
        return run(*(given.get(k, a) for k, a in enumerate(args)))

    out, pull = jax.vjp(of, *(args[k] for k in asked_for))
    return pull(jax.tree.map(lambda a: jnp.asarray(np.resize(COTANGENTS, a.shape), a.dtype), out))


def finite(tree):
    return all(np.isfinite(a).all() and np.abs(a).max() < 1e4 for a in map(np.asarray, jax.tree.leaves(tree)))


def largest_difference(a, b):
    """Over all arrays, in units of the largest element of the array in `b`."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    pairs = [(np.asarray(x, np.float64), np.asarray(y, np.float64)) for x, y in pairs]
    return max(float(np.abs(x - y).max() / (np.abs(y).max() + 1e-3)) for x, y in pairs)


def nudged(a, precision):
    return a * jnp.asarray(1 + precision * np.resize(COTANGENTS, a.shape), a.dtype)


def check(run, ours, args, precision, tolerance, asked_for=BOTH):
    """`ours` has the gradient of `run`, or says that it may not have, or the gradient hangs by a thread."""
    plain = gradient(run, args, asked_for)
    hypothesis.assume(finite(plain))
    found = []
    if warned(lambda: found.append(gradient(ours, args, asked_for))):
        return
    off = largest_difference(found[0], plain)
    if not off < tolerance:
        moved = gradient(run, jax.tree.map(lambda a: nudged(a, precision), args), asked_for)
        hypothesis.assume(finite(moved) and largest_difference(moved, plain) < tolerance / 2)
    assert off < tolerance


def in_type(dtype, tree):
    return jax.tree.map(lambda a: jnp.asarray(a, dtype), tree)


def precision_of(dtype):
    return float(jnp.finfo(dtype).eps) ** (2 / 3)


@pytest.mark.parametrize("kind", [pytest.param("float32", marks=pytest.mark.slow), "float64"])
@hypothesis.given(lines(UNARY, BINARY), LIMITS, st.sampled_from([X, ZEROS]), ASKED_FOR)
def test_random_calls_have_the_plain_gradient(kind, lines, limit, x, asked_for):
    dtype, tolerance = TYPES[kind]
    fun = program_of(lines)
    ours = bwsk_jax.reversible(fun, max_overhead=limit)
    with jax.enable_x64(dtype is jnp.float64), jax.disable_jit():
        check(fun, ours, in_type(dtype, (x, W)), precision_of(dtype), tolerance, asked_for)


def scans(body, limit, every, **options):
    ours = functools.partial(bwsk_jax.reversible_scan, max_overhead=limit, save_every=every, **options)
    return (lambda init, xs: lax.scan(body, init, xs)), (lambda init, xs: ours(body, init, xs))


def check_scan(kind, lines, frame, limit, every, x, asked_for):
    dtype, tolerance = TYPES[kind]
    carry = x if frame == "one after another" else (x, Y)
    xs = np.stack([W, W.T])
    with jax.enable_x64(dtype is jnp.float64), jax.disable_jit():
        run, ours = scans(FRAMES[frame](program_of(lines)), limit, every)
        check(run, ours, in_type(dtype, (carry, xs)), precision_of(dtype), tolerance, asked_for)


a_scan = hypothesis.given(
    lines(UNARY, BINARY, most=7),
    st.sampled_from(sorted(FRAMES)),
    LIMITS,
    st.sampled_from([None, None, 1]),
    st.sampled_from([X, ZEROS]),
    ASKED_FOR,
)


@a_scan
def test_random_scans_have_the_plain_gradient(lines, frame, limit, every, x, asked_for):
    check_scan("float32", lines, frame, limit, every, x, asked_for)


@pytest.mark.slow
@share(2)
@a_scan
def test_random_scans_in_float64_have_the_plain_gradient(lines, frame, limit, every, x, asked_for):
    check_scan("float64", lines, frame, limit, every, x, asked_for)


@hypothesis.given(lines(UNARY, CASTS, CASTS, CASTS, CASTS, BINARY), LIMITS)
def test_random_calls_through_narrow_types_have_the_plain_gradient(lines, limit):
    fun = program_of(lines)
    ours = bwsk_jax.reversible(fun, max_overhead=limit)
    with jax.disable_jit():
        check(fun, ours, in_type(jnp.float32, (X, W)), float(jnp.finfo(jnp.bfloat16).eps), 0.1)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", NARROW)
@share(5)
@hypothesis.given(
    lines(REAL, BINARY, most=7), st.sampled_from(sorted(FRAMES)), LIMITS, st.sampled_from([X, ZEROS])
)
def test_random_scans_in_a_narrow_type_are_no_further_from_float32(dtype, lines, frame, limit, x):
    """The gradient is at most 1.15 times as far from that of float32 as one that inverts nothing.

    That is plain autodiff, or the plan without inverses: they may add up the cotangents of a value in another
    order, which shows in so few elements.
    """
    carry = x if frame == "one after another" else (x, Y)
    narrow = in_type(dtype, (carry, np.stack([W, W.T])))
    with jax.disable_jit():
        run, ours = scans(FRAMES[frame](program_of(lines)), limit, None)
        exact = gradient(run, in_type(jnp.float32, narrow))
        plain = gradient(run, narrow)
        hypothesis.assume(finite(exact) and finite(plain))
        replayed = gradient(scans(FRAMES[frame](program_of(lines)), limit, None, invert=False)[1], narrow)
        found = gradient(ours, narrow)
    rounding = float(jnp.finfo(dtype).eps)
    allowed = 1.15 * max(largest_difference(g, exact) for g in (plain, replayed)) + 0.01 * rounding
    assert largest_difference(found, exact) <= allowed


@pytest.mark.slow
@share(5)
@hypothesis.given(
    lines(SPLIT, BINARY, most=7), st.sampled_from(sorted(FRAMES)), LIMITS, st.sampled_from([X, ZEROS])
)
def test_random_scans_over_devices_have_the_plain_gradient(lines, frame, limit, x):
    """The rows are split over two devices, the parameters over two others that hold the same rows."""
    mesh = jax.make_mesh((2, 2), ("rows", "columns"), axis_types=(AxisType.Auto,) * 2)
    put = lambda a, *axes: jax.device_put(
        jnp.asarray(a, jnp.float32), NamedSharding(mesh, PartitionSpec(*axes))
    )
    carry = jax.tree.map(lambda a: put(a, "rows"), x if frame == "one after another" else (x, Y))
    args = carry, put(np.stack([W, W.T]), None, None, "columns")
    with jax.disable_jit():
        run, ours = scans(FRAMES[frame](program_of(lines)), limit, None)
        check(run, ours, args, precision_of(jnp.float32), TYPES["float32"][1])


@hypothesis.given(lines(UNARY, CASTS, BINARY), st.sampled_from([0.0, 0.05, INF]), st.data())
def test_a_damaged_plan_of_a_random_program_is_rejected(lines, limit, data):
    square, stacked = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((N, N), (1, N, N)))
    good = bwsk_jax.plan_scan(
        FRAMES["coupled"](program_of(lines)), (square, square), stacked, max_overhead=limit
    )
    bwsk_jax.check_plan(good)
    with pytest.raises(bwsk_jax.PlanError):
        bwsk_jax.check_plan(damaged(good, data))
