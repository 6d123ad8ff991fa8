"""Bounds known before a value is computed hold for every value, and decide how inverses are graded."""

import functools
import math

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import primitives as p

from bwsk_jax.engine.program import jaxprs
from bwsk_jax.engine.program.types import is_real
from bwsk_jax.engine.rules import intervals, registry
from bwsk_jax.engine.rules.exactness import Grade
from bwsk_jax.engine.rules.intervals import Interval
from tests.support.parity import random

BOUNDED = [
    lambda x: jnp.exp(x),
    lambda x: jnp.tanh(x) * 3 - 1,
    lambda x: 1 / (1 + jnp.exp(-x)) + jax.nn.sigmoid(x),
    lambda x: jnp.clip(x, -0.5, 0.25) * jnp.sin(x),
    lambda x: jnp.maximum(jnp.abs(x), 0.1),
    lambda x: lax.rsqrt(x * x + 1e-3),
    lambda x: jnp.exp(jnp.minimum(x, 1.0)).reshape(-1)[::-1].astype(jnp.bfloat16),
    lambda x: lax.erf(x) - jnp.cos(x) + 2.0,
    lambda x: -jnp.exp(-jnp.abs(x)),
    jax.nn.softplus,
    lambda x: jnp.logaddexp(x, jnp.abs(x.T)) * jax.nn.softplus(-x),
    lambda x: jnp.sqrt(1 + x**2) + jnp.square(x - 3) - (jnp.tanh(x) - 2) ** 2,
    lambda x: (2 + jnp.tanh(x)) ** 3 / (jnp.sin(x) - 4) ** 5 + (jnp.tanh(x) + 3) ** -2,
    lambda x: jnp.where(x > 0, jnp.tanh(x), jnp.exp(-jnp.abs(x)) + 2),
    lambda x: jax.nn.softmax(x, axis=0) + jax.nn.softmax(x, where=x.T < 1, axis=1),
    lambda x: jnp.log(jnp.tanh(x) + 1.5) - jnp.log1p(jnp.exp(x)) + jnp.expm1(jnp.minimum(x, 3)),
    lambda x: (
        jnp.sum(jax.nn.sigmoid(x), 0, keepdims=True) - jnp.min(jnp.tanh(x)) + jnp.exp2(jnp.clip(x, -1, 9))
    ),
    lambda x: jnp.concatenate([jnp.tanh(x), jnp.pad(jax.nn.sigmoid(x), 1, constant_values=7)[:, 2:]]),
    lambda x: jnp.abs(jnp.tanh(x) - 5) / (jnp.tanh(x) - 1.5),
    lambda x: jnp.abs(jnp.clip(x, -3, 1)) + jnp.square(jnp.clip(x, -3, 1)) * jnp.clip(x, -3, 1) ** 2,
]
SIZE = 6


@functools.cache
def compiled(function):
    """The compiled function that gives each real value of a program, and what is known of it beforehand."""
    program = jaxprs.flatten(jax.make_jaxpr(function)(jnp.zeros((SIZE, SIZE))))
    known = intervals.bounds_of(program)
    outputs = [v for e in program.equations for v in e.outputs if is_real(program.avals[v])]
    return jax.jit(lambda x: program.evaluate([x], outputs)), list(map(known.of, outputs))


def values_and_bounds(function, x):
    run, bounds = compiled(function)
    return zip((np.asarray(value, np.float64) for value in run(x)), bounds, strict=True)


@pytest.mark.parametrize("function", BOUNDED)
@hypothesis.given(st.integers(0, 2**31), st.sampled_from([0.1, 1.0, 5.0, 60.0]))
def test_an_interval_holds_every_value(function, seed, scale):
    x = jnp.asarray(np.random.default_rng(seed).normal(0, scale, (SIZE, SIZE)), jnp.float32)
    for value, bounds in values_and_bounds(function, x):
        value = value[np.isfinite(value)]
        slack = 1e-2 * np.abs(value)
        assert (bounds.low <= value + slack).all() and (value - slack <= bounds.high).all()


NEVER_ZERO = {
    "exp": jnp.exp,
    "softplus": jax.nn.softplus,
    "sigmoid": lambda x: jax.nn.sigmoid(x + 2),
    "a product": lambda x: -jnp.exp(x) * jax.nn.sigmoid(x),
    "a quotient": lambda x: jnp.exp(x) / jax.nn.softplus(x.T),
    "a sum": lambda x: jnp.sum(jnp.exp(x), 0, keepdims=True) + jnp.abs(x),
    "a root": lambda x: jnp.sqrt(jnp.exp(x)),
    "a choice": lambda x: jnp.where(x > 0, jnp.exp(x), 1.0),
}
MAYBE_ZERO = {
    "anything": lambda x: x * 2,
    "a difference": lambda x: jnp.exp(x) - jnp.exp(x.T),
    "a complement": lambda x: 1 - jax.nn.sigmoid(x),
    "a choice": lambda x: jnp.where(x > 0, jnp.exp(x), 0.0),
    "a choice for what is no number": lambda x: jnp.where(jnp.isnan(x), 0.0, jnp.exp(x)),
    "a logarithm": lambda x: jnp.log(jnp.exp(x)),
}


def bounds_at_end(function, *shapes):
    program = jaxprs.flatten(jax.make_jaxpr(function)(*(jnp.ones(shape) for shape in shapes)))
    return intervals.bounds_of(program).of(program.outputs[0])


@pytest.mark.parametrize("function", NEVER_ZERO.values(), ids=NEVER_ZERO)
def test_what_is_never_zero_in_exact_arithmetic(function):
    bounds = bounds_at_end(function, (SIZE, SIZE))
    assert bounds.nonzero and not bounds.divides
    x = jnp.asarray(np.random.default_rng(0).normal(0, 5, (SIZE, SIZE)), jnp.float32)
    assert jnp.all(function(x) != 0)


@pytest.mark.parametrize("function", MAYBE_ZERO.values(), ids=MAYBE_ZERO)
def test_what_may_be_zero(function):
    assert not bounds_at_end(function, (SIZE, SIZE)).nonzero


@pytest.mark.parametrize(
    ("function", "low"),
    [
        (lambda x: jnp.sqrt(1 + x * x), 1.0),
        (lambda x: jnp.sqrt(1 + x**2), 1.0),
        (lambda x: jax.nn.softplus(x) + 1e-3, 1e-3),
        (lambda x: jax.nn.softplus(x), 0.0),
        (lambda x: jnp.cosh(x), -math.inf),
    ],
)
def test_a_scale_that_stays_away_from_zero(function, low):
    assert bounds_at_end(function, (SIZE,)).low == pytest.approx(max(low, -float(jnp.finfo(jnp.float32).max)))


@pytest.mark.parametrize(
    "function",
    [
        *(jnp.exp, jax.nn.softplus, lambda x: jax.nn.softplus(x) + 1e-3, lambda x: jax.nn.sigmoid(x + 2)),
        *(lambda x: jnp.sqrt(1 + x * x), lambda x: jnp.cos(x) / 4 - jnp.sin(x), lambda x: (x - 3) ** 2),
        lambda x: jnp.sum(jnp.exp2(x), 0, keepdims=True) - jnp.abs(x - 1),
    ],
)
def test_a_typical_value_is_that_of_zeros(function):
    typical = bounds_at_end(function, (SIZE, SIZE)).typical
    np.testing.assert_allclose(function(jnp.zeros((SIZE, SIZE))), typical, rtol=1e-6)


# --- a value and the largest along some axes ---

NO_LARGER = {
    "rows": lambda x: x - jnp.max(x, -1, keepdims=True),
    "columns": lambda x: x - jnp.max(x, 0),
    "all": lambda x: x - jnp.max(x),
    "transposed": lambda x: x.T - jnp.max(x, 0)[:, None],
    "a bound below": lambda x: x - jnp.maximum(jnp.max(x, 0, keepdims=True), 0.5),
    "mapped": jax.vmap(lambda x: x - jnp.max(x, 0), in_axes=1, out_axes=1),
    "mapped on top": lambda x: jax.vmap(lambda y: y - jnp.max(y, -1, keepdims=True), 1)(x[:, None] + x),
}
PERHAPS_LARGER = {
    "other axis": lambda x: x - jnp.max(x, 0)[:, None],
    "transposed": lambda x: x.T - jnp.max(x, 0),
    "other value": lambda x: x - jnp.max(jnp.tanh(x), 0),
    "cut off": lambda x: jnp.maximum(x, 0.0) - jnp.max(x, 0),
    "least": lambda x: x - jnp.min(x, 0),
    "the other way": lambda x: jnp.max(x, 0) - x,
}


@pytest.mark.parametrize("function", NO_LARGER.values(), ids=NO_LARGER)
def test_what_is_no_larger_than_the_largest(function):
    with jax.numpy_rank_promotion("allow"):
        assert bounds_at_end(function, (SIZE, SIZE)).high == 0


@pytest.mark.parametrize("function", PERHAPS_LARGER.values(), ids=PERHAPS_LARGER)
def test_what_may_be_larger_than_some_other_value(function):
    with jax.numpy_rank_promotion("allow"):
        assert bounds_at_end(function, (SIZE, SIZE)).high > 0


exponentials = lambda x, axis: jnp.exp(x - jnp.max(x, axis, keepdims=True))
SUMS_OF_SOFTMAX = {
    "rows": lambda x: jnp.sum(exponentials(x, -1), -1),
    "columns": lambda x: jnp.sum(exponentials(x, 0), 0),
    "all": lambda x: jnp.sum(exponentials(x, (0, 1))),
    "of largest ones": lambda x: jnp.sum(exponentials(x, 0)),
    "transposed": lambda x: jnp.sum(jnp.exp(x.T - jnp.max(x, 0)[:, None]), -1),
    "no gradient": lambda x: jnp.sum(jnp.exp(x - lax.stop_gradient(jnp.max(x, 0))), 0),
    "mapped": jax.vmap(lambda x: jnp.sum(exponentials(x, 0), 0), in_axes=1),
    "narrow": lambda x: jnp.sum(exponentials(x.astype(jnp.bfloat16), 0), 0),
    "no bound": lambda x: jnp.sum(jnp.exp(x - jnp.max(x, 0, initial=-jnp.inf)), 0),
}
OTHER_SUMS = {
    "other axis": lambda x: jnp.sum(exponentials(x, 0), -1),
    "one of all": lambda x: jnp.sum(exponentials(x, (0, 1)), -1),
    "a bound below": lambda x: jnp.sum(jnp.exp(x - jnp.max(x, 0, initial=3.0)), 0),
    "without some": lambda x: jnp.sum(exponentials(x, 0), 0, where=x < 1),
    "of others": lambda x: jnp.sum(jnp.exp(x - jnp.max(x + 3, 0)), 0),
    "twice": lambda x: jnp.sum(jnp.exp(2 * (x - jnp.max(x, 0))), 0),
}


@pytest.mark.parametrize("function", SUMS_OF_SOFTMAX.values(), ids=SUMS_OF_SOFTMAX)
def test_the_sum_in_a_softmax_is_no_less_than_one(function):
    with jax.numpy_rank_promotion("allow"):
        assert bounds_at_end(function, (SIZE, SIZE)).low == 0.5
        assert float(jnp.min(function(1e3 * random(0, SIZE, SIZE)))) >= 1


@pytest.mark.parametrize("function", OTHER_SUMS.values(), ids=OTHER_SUMS)
def test_other_sums_of_exponentials_may_be_tiny(function):
    with jax.numpy_rank_promotion("allow"):
        assert bounds_at_end(function, (SIZE, SIZE)).low == 0


@pytest.mark.parametrize("call", [jax.nn.softmax, jax.vmap(jax.nn.softmax, in_axes=1)])
def test_the_exponentials_of_a_softmax_come_back_without_a_guard(call):
    program = jaxprs.flatten(jax.make_jaxpr(call)(jnp.ones((SIZE, SIZE))))
    (division,) = (e for e in program.equations if e.primitive is p.div_p)
    inverses = registry.inverses_of(division, intervals.bounds_of(program).of)
    assert {i.operand: i.grade for i in inverses}[0] is Grade.RELATIVE


@pytest.mark.parametrize(
    ("interval", "divides", "multiplies"),
    [
        (Interval(0.1, 2), True, True),
        (Interval(-2, -0.1), True, True),
        (Interval(-1, 1), False, True),
        (Interval(0, 1), False, True),
        (Interval(1, math.inf), True, False),
        (intervals.ANY, False, False),
    ],
)
def test_what_may_be_divided_and_multiplied_by(interval, divides, multiplies):
    assert (interval.divides, interval.multiplies) == (divides, multiplies)


@pytest.mark.parametrize(("dtype", "divides"), [("float16", False), ("bfloat16", True), ("float32", True)])
def test_what_underflows_in_a_type_may_be_zero_there(dtype, divides):
    assert Interval(1e-9, 1).within(jnp.dtype(dtype)).divides == divides


def test_dividing_by_what_is_bounded_away_from_zero_needs_no_guard():
    program = jaxprs.flatten(
        jax.make_jaxpr(lambda x, s: x * (jax.nn.sigmoid(s) + 1))(jnp.ones(3), jnp.ones(3))
    )
    bounds = intervals.Bounds()
    for equation in program.equations:
        bounds.add(equation)
    grades = {i.operand: i.grade for i in registry.inverses_of(program.equations[-1], bounds.of)}
    assert grades == {0: Grade.RELATIVE, 1: Grade.GUARDED}


ROUNDED_AWAY = {
    "a gate that saturates": lambda x: 1 - jax.nn.sigmoid(jnp.clip(x, -20.0, 20.0)),
    "a hyperbolic tangent that does": lambda x: 1 - jnp.tanh(jnp.clip(x, -10.0, 10.0)),
    "a negative difference": lambda x: jnp.tanh(jnp.clip(x, -10.0, 10.0)) - 1,
    "a logarithm of nearly 1": lambda x: jnp.log(jax.nn.sigmoid(jnp.clip(x, -20.0, 20.0))),
}


@pytest.mark.parametrize("function", ROUNDED_AWAY.values(), ids=ROUNDED_AWAY)
def test_what_rounding_may_make_0_does_not_divide(function):
    x = jnp.full((SIZE, SIZE), 30.0)
    assert (abs(function(x)) < 1e-6).all()
    assert not bounds_at_end(function, (SIZE, SIZE)).divides


def test_a_gate_that_leaves_more_than_rounding_divides():
    assert bounds_at_end(lambda x: 1 - jax.nn.sigmoid(jnp.clip(x, -8.0, 8.0)), (SIZE, SIZE)).divides
