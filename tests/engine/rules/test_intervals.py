"""Bounds known before a value is computed hold for every value, and decide how inverses are graded."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from bwsk_jax.engine.program import jaxprs
from bwsk_jax.engine.rules import intervals, registry
from bwsk_jax.engine.rules.exactness import Grade
from bwsk_jax.engine.rules.intervals import Interval

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
]


@pytest.mark.parametrize("function", BOUNDED)
def test_an_interval_holds_every_value(function):
    x = jnp.asarray(np.random.default_rng(0).normal(0, 3, (20, 20)), jnp.float32)
    program = jaxprs.flatten(jax.make_jaxpr(function)(x))
    known = intervals.Bounds()
    for equation in program.equations:
        known.add(equation)
        for output in equation.outputs:
            bounds = known.of(output)
            value = np.asarray(program.evaluate([x], [output])[0], np.float64)
            slack = 1e-2 * (1 + np.abs(value))
            assert (bounds.low <= value + slack).all() and (value - slack <= bounds.high).all()


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
