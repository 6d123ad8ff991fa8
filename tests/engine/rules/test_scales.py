"""Affine couplings: whichever of the usual functions makes the scale, least memory keeps nothing of them."""

import functools
import math

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import bwsk_jax
from bwsk_jax.engine.program import jaxprs
from bwsk_jax.engine.rules.exactness import Grade
from bwsk_jax.engine.rules.intervals import bounds_of
from bwsk_jax.engine.rules.inverses import INVERSES
from bwsk_jax.engine.rules.registry import inverses_of
from experiments.distance import distance
from tests.support.parity import INF, LEAST, warned

SCALES = {
    "exp": jnp.exp,
    "softplus": jax.nn.softplus,
    "softplus and more": lambda s: jax.nn.softplus(s) + 1e-3,
    "sigmoid": lambda s: jax.nn.sigmoid(s + 2),
    "root": lambda s: jnp.sqrt(1 + s * s),
    "root of a square": lambda s: jnp.sqrt(1 + jnp.square(s)),
    "root of a power": lambda s: jnp.sqrt(s**2 + 1.0),
}
LAYERS = 4
each_scale = pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
siblings = pytest.mark.parametrize("both", [False, True], ids=["one half", "both halves"])


def coupling(scale, both, gain=1.0):
    """`(a, b) -> (a, b * scale(s(a)) + t(a))`, then perhaps the same for the other half."""

    def moved(a, b, params):
        hidden = jnp.tanh(a @ params[0])
        return b * scale(gain * (hidden @ params[1])) + hidden @ params[2]

    def body(carry, params):
        a, b = carry
        b = moved(a, b, params[:3])
        return (moved(b, a, params[3:]) if both else a, b), None

    return body


def arguments(seed, batch, width, dtype, layers=LAYERS):
    rng = np.random.default_rng(seed)
    carry = [rng.normal(size=(batch, width)) for _ in range(2)]
    params = [rng.normal(size=(layers, width, width)) / math.sqrt(width) for _ in range(6)]
    return jax.tree.map(lambda a: jnp.asarray(a, dtype), (tuple(carry), tuple(params)))


@functools.cache
def gradient(scan, *coupled):
    """The compiled gradient in the carry and the parameters, of a coupling with these arguments."""

    def loss(carry, params):
        return sum(jnp.sum(jnp.sin(a)) for a in scan(coupling(*coupled), carry, params)[0])

    return jax.jit(jax.grad(loss, (0, 1)))


def least(scale, both, dtype=jnp.float32, layers=LAYERS):
    carry, params = jax.eval_shape(lambda: arguments(0, 4, 8, dtype, layers))
    return bwsk_jax.plan_scan(coupling(scale, both), carry, params, max_overhead=INF)


@each_scale
@siblings
def test_nothing_is_kept_and_nothing_guarded(scale, both):
    plan = least(scale, both)
    assert plan.saved_bytes == 0 and not plan.guarded_steps
    assert Grade.GUARDED not in {s.grade for s in plan.steps}


@each_scale
@pytest.mark.parametrize("limit", [0.03, 0.1, 0.4])
def test_a_scale_that_may_vanish_is_divided_by_for_least_memory_alone(scale, limit):
    carry, params = jax.eval_shape(lambda: arguments(0, 4, 8, jnp.float32, LAYERS))
    plan = bwsk_jax.plan_scan(coupling(scale, True), carry, params, max_overhead=limit)
    assert not any(step.conditional for step in plan.steps if step not in plan.guarded_steps)


@each_scale
@siblings
def test_nothing_is_recovered_with_rounding_in_a_narrow_type(scale, both):
    plan = least(scale, both, jnp.bfloat16)
    assert all(step.exact for step in plan.steps)


@pytest.mark.parametrize(
    ("size", "kind"),
    [
        ((4, 8), "float32"),
        pytest.param((32, 16), "float32", marks=pytest.mark.slow),
        pytest.param((4, 8), "float64", marks=pytest.mark.slow),
    ],
)
@each_scale
@pytest.mark.parametrize("both", [pytest.param(False, marks=pytest.mark.slow), True])
@hypothesis.given(seed=st.integers(0, 2**31))
def test_the_gradient_is_that_of_plain_autodiff(scale, both, size, kind, seed):
    with jax.enable_x64(kind == "float64"):
        args = arguments(seed, *size, kind)
        ours = []
        assert not warned(lambda: ours.append(gradient(LEAST, scale, both, 0.5)(*args)))
        assert (
            distance(ours[0], gradient(lax.scan, scale, both, 0.5)(*args))
            < {"float32": 1e-3, "float64": 1e-10}[kind]
        )


@pytest.mark.parametrize("gain", [5.0, *(pytest.param(g, marks=pytest.mark.slow) for g in (1.0, 30.0))])
@pytest.mark.parametrize("layers", [4, pytest.param(12, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["exp", "sigmoid", pytest.param("softplus", marks=pytest.mark.slow)])
def test_no_gradient_is_wrong_in_silence(name, layers, gain):
    """However extreme the scales: the gradient is as good as plain float32's, or is NaN."""
    coupled, args = (SCALES[name], True, gain), arguments(1, 8, 16, jnp.float32, layers)
    found, plain = (gradient(scan, *coupled)(*args) for scan in (LEAST, lax.scan))
    if not all(np.isfinite(a).all() for a in jax.tree.leaves((found, plain))):
        return
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: jnp.asarray(np.asarray(a, np.float64)), args)
        exact = jax.tree.map(np.asarray, gradient(lax.scan, *coupled)(*wide))
    assert distance(found, exact) <= 3 * distance(plain, exact) + 1e-3


def test_a_scale_that_has_vanished_is_noticed():
    """The scale underflows to 0, and the product with it: nothing is left of half of the carry."""
    half, shift = jnp.ones((2, 4)), jnp.zeros((3, 1, 1))
    body = lambda c, x: ((c[0], c[1] * jnp.exp(-200 * jnp.abs(c[0]) + x)), None)
    run = lambda scan, half: sum(map(jnp.sum, scan(body, (half, half), shift)[0]))
    found = []
    assert warned(lambda: found.append(jax.grad(lambda half: run(LEAST, half))(half)))


# --- how far a factor can be divided by ---


def grade_of(scale):
    program = jaxprs.flatten(jax.make_jaxpr(lambda s, b: b * scale(s))(jnp.ones(3), jnp.ones(3)))
    bounds = bounds_of(program)
    found = {
        program.equations[-1].inputs[i.operand]: i for i in inverses_of(program.equations[-1], bounds.of)
    }
    return found[program.inputs[1]]


@pytest.mark.parametrize(
    ("scale", "grade", "amplification"),
    [
        (SCALES["exp"], Grade.ROUNDED, 1.0),
        (SCALES["softplus"], Grade.ROUNDED, 1 / math.log(2)),
        (SCALES["softplus and more"], Grade.RELATIVE, 1 / (math.log(2) + 1e-3)),
        (SCALES["sigmoid"], Grade.ROUNDED, 1 + math.exp(-2)),
        (SCALES["root"], Grade.RELATIVE, 1.0),
        (lambda s: -jnp.exp(s), Grade.ROUNDED, 1.0),
        (lambda s: jnp.clip(s, 1e-3, 1.0), Grade.RELATIVE, 1.0),
        (lambda s: jax.nn.sigmoid(s), Grade.GUARDED, 1.0),
        (lambda s: jax.nn.sigmoid(s + 1), Grade.GUARDED, 1.0),
        (lambda s: jnp.exp(-jnp.exp(s)), Grade.GUARDED, 1.0),
        (lambda s: jnp.exp(s - 1000), Grade.GUARDED, 1.0),
        (lambda s: s, Grade.GUARDED, 1.0),
        (lambda s: 1 - jax.nn.sigmoid(s + 2), Grade.GUARDED, 1.0),
    ],
)
def test_the_grade_of_a_division_by_a_scale(scale, grade, amplification):
    inverse = grade_of(scale)
    assert inverse.grade is grade and inverse.amplification == pytest.approx(amplification)
    assert inverse.condition


def test_a_scale_that_is_usually_small_is_not_divided_by_too_often():
    assert least(SCALES["softplus"], True, layers=8).saved_bytes == 0
    assert least(SCALES["softplus"], True, layers=100).saved_bytes > 0
    assert least(SCALES["root"], True, layers=100).saved_bytes == 0


def test_a_forget_gate_is_not_divided_by_without_a_guard():
    def cell(carry, xs):
        x, weights = xs
        keep, new = jnp.split(x @ weights, 2, -1)
        return jax.nn.sigmoid(keep + 1) * carry + jnp.tanh(new), None

    xs = jnp.ones((LAYERS, 4, 8)), jnp.ones((LAYERS, 8, 16))
    plan = bwsk_jax.plan_scan(cell, jnp.ones((4, 8)), xs)
    assert all(s.grade is not Grade.ROUNDED for s in plan.steps)


def test_functions_that_saturate_are_not_inverted_as_a_rule():
    x = jnp.ones(3)
    calls = {
        True: (jnp.exp, jnp.log, jnp.sqrt, lambda x: x * 2, lambda x: x.reshape(1, 3), jnp.sinh),
        False: (jnp.tanh, jax.nn.sigmoid, lax.erf, jnp.expm1, jnp.arctan),
    }
    for usual, functions in calls.items():
        for function in functions:
            program = jaxprs.flatten(jax.make_jaxpr(function)(x))
            (equation,) = (e for e in program.equations if e.primitive in INVERSES)
            assert [i.usual for i in inverses_of(equation)] == [usual]


@pytest.mark.parametrize("bound", [15.0, 18.0])
def test_a_gate_that_is_kept_from_0_but_closed_is_not_divided_by(bound):
    """What is added to the product leaves nothing of the digits that a division would need."""

    def layer(carry, params):
        weights, gate = params
        hidden = jnp.tanh(carry @ weights)
        return hidden * jax.nn.sigmoid(jnp.clip(gate, -bound, bound)) + 1.0, hidden * hidden

    draw = lambda seed, *shape: jax.random.normal(jax.random.key(seed), shape)
    carry, weights = draw(2, 4, 128), 0.1 * draw(5, 4, 128, 128)
    gates = draw(1, 4, 4, 128).at[1, :, 2].set(-20.0)

    def grad(scan):
        loss = lambda weights: scan(layer, carry, (weights, gates))[1].sum()
        return jax.jit(jax.grad(loss))(weights)

    plain = grad(lax.scan)
    for options in ({}, {"max_overhead": 0.2}, {"max_bytes": 4 * 4 * 128}):
        ours = grad(functools.partial(bwsk_jax.reversible_scan, **options))
        assert distance(ours[1, :, 2], plain[1, :, 2]) < 1e-5
