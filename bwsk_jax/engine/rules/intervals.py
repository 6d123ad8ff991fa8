"""Bounds on a value, known before it is computed from the constants and functions that it came through."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax.extend.core import Literal
from jax.extend.core import primitives as p

from bwsk_jax.engine.program.jaxprs import Equation, Program, literal_value
from bwsk_jax.engine.program.types import is_real

__all__ = ["ANY", "Bounds", "Interval", "IntervalOf", "bounds_of", "interval"]


@dataclasses.dataclass(frozen=True)
class Interval:
    """What is known of a value before it is computed: `low <= value <= high`."""

    low: float = -math.inf
    high: float = math.inf

    @property
    def divides(self) -> bool:
        """Whether no value is 0: each can be divided by."""
        return self.low > 0 or self.high < 0

    @property
    def multiplies(self) -> bool:
        """Whether a division by any value is far from underflow: multiplying by it brings back what was
        divided."""
        return self.low >= -1e6 and self.high <= 1e6

    def within(self, dtype: Any) -> Interval:
        """The same bounds as values of a float type: what is smaller than its least normal number may be
        0."""
        info = jnp.finfo(dtype)
        least, most = float(info.tiny), float(info.max)
        low = max(self.low, -most) if not 0 < self.low < least else 0.0
        high = min(self.high, most) if not -least < self.high < 0 else 0.0
        return Interval(low, high)


ANY = Interval()
IntervalOf = Callable[[Any], Interval]
"""The bounds of a value or literal."""


def _through(*bounds: Interval, op: Callable[..., float]) -> Interval:
    """The interval of a function that is monotone in each argument, from its corners."""
    if len(bounds) == 1:
        corners = [op(bounds[0].low), op(bounds[0].high)]
    else:
        a, b = bounds
        corners = [op(x, y) for x in (a.low, a.high) for y in (b.low, b.high)]
    return ANY if any(map(math.isnan, corners)) else Interval(min(corners), max(corners))


def _exp(x: float) -> float:
    return math.inf if x > 700 else math.exp(x)


def _rsqrt(x: float) -> float:
    return math.inf if x <= 0 else x**-0.5


_INTERVALS: dict[Any, Callable[..., Interval]] = {
    p.add_p: functools.partial(_through, op=lambda a, b: a + b),
    p.sub_p: functools.partial(_through, op=lambda a, b: a - b),
    p.mul_p: functools.partial(_through, op=lambda a, b: a * b),
    p.max_p: functools.partial(_through, op=max),
    p.min_p: functools.partial(_through, op=min),
    p.neg_p: functools.partial(_through, op=lambda a: -a),
    p.exp_p: functools.partial(_through, op=_exp),
    p.tanh_p: functools.partial(_through, op=math.tanh),
    p.erf_p: functools.partial(_through, op=math.erf),
    p.logistic_p: functools.partial(_through, op=lambda a: 1 / (1 + _exp(-a))),
    p.sin_p: lambda a: Interval(-1, 1),
    p.cos_p: lambda a: Interval(-1, 1),
    p.abs_p: lambda a: Interval(0, math.inf),
    p.square_p: lambda a: Interval(0, math.inf),
    p.rsqrt_p: lambda a: Interval(_rsqrt(a.high), _rsqrt(a.low)),
    p.clamp_p: lambda low, x, high: Interval(low.low, high.high),
}
_SAME_INTERVAL = {p.reshape_p, p.squeeze_p, p.broadcast_in_dim_p, p.transpose_p, p.rev_p, p.slice_p, p.copy_p}
_SAME_INTERVAL |= {p.stop_gradient_p, p.convert_element_type_p, p.dynamic_slice_p, p.reduce_max_p}


def interval(equation: Equation, operands: Sequence[Interval]) -> Interval:
    """Bounds on a float output from bounds on the operands."""
    if len(equation.outputs) != 1 or not is_real(equation.out_avals[0]):
        return ANY
    rule = _INTERVALS.get(equation.primitive)
    if equation.primitive in _SAME_INTERVAL and is_real(equation.in_avals[0]):
        rule = lambda operand, *_: operand
    return (ANY if rule is None else rule(*operands)).within(equation.out_avals[0].dtype)


class Bounds:
    """The intervals of a program's values, equation by equation in the order of the program."""

    def __init__(self) -> None:
        self._known: dict[int, Interval] = {}

    def add(self, equation: Equation) -> None:
        """Derive the bounds of what the equation defines."""
        bounds = interval(equation, [self.of(atom) for atom in equation.inputs])
        self._known.update(dict.fromkeys(equation.outputs, bounds))

    def of(self, atom: int | Literal) -> Interval:
        """The bounds of a value or literal, `ANY` where nothing is known."""
        if not isinstance(atom, Literal):
            return self._known.get(atom, ANY)
        value = literal_value(atom)
        return ANY if value is None or math.isnan(value) else Interval(value, value)


def bounds_of(program: Program) -> Bounds:
    """The intervals of all values of a program."""
    bounds = Bounds()
    for equation in program.equations:
        bounds.add(equation)
    return bounds
