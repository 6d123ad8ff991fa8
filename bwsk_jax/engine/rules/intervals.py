"""Bounds on a value, known before it is computed from the constants and functions that it came through."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax.numpy as jnp
from jax.extend.core import Literal
from jax.extend.core import primitives as p

from bwsk_jax.engine.program.jaxprs import CUSTOM_DERIVATIVES, Equation, Program, literal_value, subprograms
from bwsk_jax.engine.program.types import is_real, size
from bwsk_jax.engine.rules.patterns import (
    is_sum_of_no_number,
    reads_one_twice,
    subtracts_largest,
    sums_softmax,
)

__all__ = ["ANY", "Bounds", "Interval", "IntervalOf", "bounds_of", "interval"]


@dataclasses.dataclass(frozen=True)
class Interval:
    """What is known of a value before it is computed, as far as it is a finite number.

    Attributes:
      low, high: `low <= value <= high`, in floats.
      nonzero: whether the function is never 0 of finite numbers in exact arithmetic, as `exp` is not. Floats
        may underflow all the same.
      typical: the value where everything that nothing is known of is 0, to tell the usual size from.
    """

    low: float = -math.inf
    high: float = math.inf
    nonzero: bool = False
    typical: float = 0.0

    @property
    def divides(self) -> bool:
        """Whether no value is 0: each can be divided by."""
        return self.low > 0 or self.high < 0

    @property
    def multiplies(self) -> bool:
        """Whether a division by any value is far from underflow: multiplying by it brings back what was
        divided."""
        return self.low >= -1e6 and self.high <= 1e6

    @property
    def has_sign(self) -> bool:
        """Whether no two values have different signs."""
        return self.low >= 0 or self.high <= 0

    def within(self, dtype: Any) -> Interval:
        """The same bounds as values of a float type: what is smaller than its least normal number may be
        0."""
        info = jnp.finfo(dtype)
        least, most = float(info.tiny), float(info.max)
        low = max(self.low, -most) if not 0 < self.low < least else 0.0
        high = min(self.high, most) if not -least < self.high < 0 else 0.0
        return dataclasses.replace(self, low=low, high=high)


_ROUNDINGS = 8
"""By how many roundings a function that a compiler approximates may be off."""
_HUGE = 1e300
"""The largest size that a typical value is said to have."""

ANY = Interval()
IntervalOf = Callable[[Any], Interval]
"""The bounds of a value or literal."""


# --- functions ---------------------------------------------------------------------------------------------

_always = lambda *operands: True
_never = lambda *operands: False
_all_nonzero = lambda *operands: all(operand.nonzero for operand in operands)


def _monotone(op: Callable[..., float], nonzero: Callable[..., bool] = _all_nonzero):
    """The rule of a function that is monotone in each operand: the corners bound it.

    `nonzero` says for which operands its value is never 0, whatever their bounds are.
    """

    def rule(*operands: Interval) -> Interval:
        corners = itertools.product(*((operand.low, operand.high) for operand in operands))
        bounds = [op(*corner) for corner in corners]
        return _spanning(bounds, nonzero(*operands), op(*(operand.typical for operand in operands)))

    return rule


def _spanning(bounds: Sequence[float], nonzero: bool, typical: float) -> Interval:
    """The interval from the least of the bounds to the largest; unbounded if they contradict each other."""
    low, high = (-math.inf, math.inf) if any(map(math.isnan, bounds)) else (min(bounds), max(bounds))
    typical = 0.0 if math.isnan(typical) else min(max(typical, -_HUGE), _HUGE)
    return Interval(low, high, nonzero or low > 0 or high < 0, typical)


def _even(op: Callable[[float], float]):
    """The rule of a function that is the same for x and -x, grows with the size of x, and is 0 for 0."""

    def rule(operand: Interval) -> Interval:
        bounds = [op(operand.low), op(operand.high)] + ([] if operand.has_sign else [0.0])
        return _spanning(bounds, operand.nonzero, op(operand.typical))

    return rule


def _between(low: float, high: float, op: Callable[[float], float]):
    """The rule of a function of which no more is known than two constants that it lies between."""
    return lambda operand: Interval(low, high, typical=op(operand.typical))


def _quotient(a: Interval, b: Interval) -> Interval:
    typical = a.typical / b.typical if b.typical else 0.0
    if b.divides:
        bounds = [x / y if math.isfinite(y) else 0.0 for x in (a.low, a.high) for y in (b.low, b.high)]
    elif a.has_sign and b.has_sign:
        bounds = [0.0, math.inf if (a.low >= 0) == (b.low >= 0) else -math.inf]
    else:
        bounds = [-math.inf, math.inf]
    return _spanning(bounds, a.nonzero, typical)


def _sum_is_nonzero(a: Interval, b: Interval) -> bool:
    same_side = (a.low >= 0 and b.low >= 0) or (a.high <= 0 and b.high <= 0)
    return same_side and (a.nonzero or b.nonzero)


def _larger_is_nonzero(a: Interval, b: Interval) -> bool:
    return _all_nonzero(a, b) or any(x.nonzero and x.low >= 0 for x in (a, b))


_negative = _monotone(lambda a: -a)
_sum = _monotone(lambda a, b: a + b, _sum_is_nonzero)
_product = _monotone(lambda a, b: a * b if a and b else 0.0)
_larger = _monotone(max, _larger_is_nonzero)
_smaller = lambda a, b: _negative(_larger(_negative(a), _negative(b)))
_square = _even(lambda a: a * a)


def _union(*operands: Interval) -> Interval:
    """The rule of what gives a value of one of its operands."""
    bounds = [bound for operand in operands for bound in (operand.low, operand.high)]
    return _spanning(bounds, _all_nonzero(*operands), min((x.typical for x in operands), key=abs))


def _integer_power(operand: Interval, exponent: int) -> Interval:
    if exponent < 0:
        return _quotient(Interval(1, 1, typical=1), _integer_power(operand, -exponent))
    if exponent == 0:
        return Interval(1, 1, nonzero=True, typical=1)

    def power(a: float) -> float:
        try:
            return a**exponent
        except OverflowError:
            return math.inf if a > 0 or exponent % 2 == 0 else -math.inf

    return (_monotone if exponent % 2 else _even)(power)(operand)


def _total(operand: Interval, count: int) -> Interval:
    """Of a sum of `count` elements. The sum of many of one sign may stop growing in a narrow type."""
    one_sided = operand.nonzero and operand.has_sign and count > 0
    low, high = min(count * operand.low, operand.low), max(count * operand.high, operand.high)
    if count == 0:
        low, high = 0.0, 0.0
    return _spanning([low, high], one_sided, count * operand.typical)


def _exp(x: float) -> float:
    return math.inf if x > 700 else math.exp(x)


def _expm1(x: float) -> float:
    return math.inf if x > 700 else math.expm1(x)


def _log(x: float) -> float:
    return -math.inf if x <= 0 else math.log(x)


def _log1p(x: float) -> float:
    return -math.inf if x <= -1 else math.log1p(x)


def _rsqrt(x: float) -> float:
    return math.inf if x <= 0 else x**-0.5


_INTERVALS: dict[Any, Callable[..., Interval]] = {
    p.add_p: _sum,
    p.add_jaxvals_p: _sum,
    p.sub_p: lambda a, b: _sum(a, _negative(b)),
    p.mul_p: _product,
    p.div_p: _quotient,
    p.neg_p: _negative,
    p.max_p: _larger,
    p.min_p: _smaller,
    p.clamp_p: lambda low, x, high: _smaller(_larger(x, low), high),
    p.select_n_p: lambda which, *cases: _union(*cases),
    p.concatenate_p: _union,
    p.pad_p: _union,
    p.exp_p: _monotone(_exp, _always),
    p.exp2_p: _monotone(lambda a: _exp(a * math.log(2)), _always),
    p.expm1_p: _monotone(_expm1),
    p.log_p: _monotone(_log, _never),
    p.log1p_p: _monotone(_log1p),
    p.tanh_p: _monotone(math.tanh),
    p.erf_p: _monotone(math.erf),
    p.logistic_p: _monotone(lambda a: 1 / (1 + _exp(-a)), _always),
    p.sqrt_p: _monotone(lambda a: math.sqrt(max(a, 0.0))),
    p.rsqrt_p: _monotone(_rsqrt, _always),
    p.sin_p: _between(-1, 1, math.sin),
    p.cos_p: _between(-1, 1, math.cos),
    p.abs_p: _even(abs),
    p.square_p: _square,
}


def _added(bounds: Interval, a: Interval, b: Interval) -> Sequence[float]:
    return (a.low, b.low) if bounds.low > 0 else (a.high, b.high)


_TERMS: dict[Any, Callable[..., Sequence[float]]] = {
    p.add_p: _added,
    p.add_jaxvals_p: _added,
    p.sub_p: lambda bounds, a, b: _added(bounds, a, _negative(b)),
    **dict.fromkeys((p.log_p, p.log1p_p), lambda bounds, x: (1.0,)),
}
"""What is added where the result is nearest to 0, of the bounds of the result and of the operands. The
logarithm of nearly 1 is like `x - 1`."""
_SAME_INTERVAL = {p.reshape_p, p.squeeze_p, p.broadcast_in_dim_p, p.transpose_p, p.rev_p, p.slice_p, p.copy_p}
_SAME_INTERVAL |= {p.stop_gradient_p, p.convert_element_type_p, p.dynamic_slice_p, p.reduce_max_p}
_SAME_INTERVAL |= {p.reduce_min_p, p.name_p, p.sharding_constraint_p}


def interval(equation: Equation, operands: Sequence[Interval]) -> Interval:
    """Bounds on a float output from bounds on the operands."""
    if len(equation.outputs) != 1 or not is_real(equation.out_avals[0]):
        return ANY
    dtype = equation.out_avals[0].dtype
    bounds = _of_function(equation, operands).within(dtype)
    terms = _TERMS.get(equation.primitive)
    return bounds if terms is None else _as_rounded(bounds, terms(bounds, *operands), dtype)


def _as_rounded(bounds: Interval, terms: Sequence[float], dtype: Any) -> Interval:
    """The same bounds, but 0 where the rounding of these terms may leave nothing of their sum."""
    rounding = _ROUNDINGS * float(jnp.finfo(dtype).eps) * sum(map(abs, terms))
    low = 0.0 if 0 < bounds.low <= rounding else bounds.low
    high = 0.0 if -rounding <= bounds.high < 0 else bounds.high
    return dataclasses.replace(bounds, low=low, high=high)


def _of_function(equation: Equation, operands: Sequence[Interval]) -> Interval:
    primitive = equation.primitive
    if primitive in _SAME_INTERVAL:
        return operands[0] if is_real(equation.in_avals[0]) else ANY
    if primitive is p.mul_p and reads_one_twice(equation):
        return _square(operands[0])
    if primitive is p.integer_pow_p:
        return _integer_power(operands[0], equation.params["y"])
    if primitive is p.reduce_sum_p:
        return _total(operands[0], size(equation.in_avals[0]) // max(size(equation.out_avals[0]), 1))
    rule = _INTERVALS.get(primitive)
    return ANY if rule is None else rule(*operands)


# --- programs ----------------------------------------------------------------------------------------------


class Bounds:
    """The intervals of a program's values, equation by equation in the order of the program."""

    def __init__(self, known: Iterable[tuple[int, Interval]] = ()) -> None:
        self._known: dict[int, Interval] = dict(known)
        self._makers: dict[int, Equation] = {}

    def add(self, equation: Equation) -> None:
        """Derive the bounds of what the equation defines."""
        self._makers.update(dict.fromkeys(equation.outputs, equation))
        if equation.primitive in CUSTOM_DERIVATIVES:
            self._known.update(zip(equation.outputs, self._of_body(equation), strict=True))
            return
        if equation.primitive is p.select_n_p and is_sum_of_no_number(equation, self._makers):
            bounds = self.of(equation.inputs[1])
        else:
            bounds = interval(equation, [self.of(atom) for atom in equation.inputs])
        if equation.primitive is p.sub_p and subtracts_largest(equation, self._makers):
            bounds = dataclasses.replace(bounds, high=min(bounds.high, 0.0))
        if equation.primitive is p.reduce_sum_p and sums_softmax(equation, self._makers):
            bounds = dataclasses.replace(bounds, low=max(bounds.low, 0.5))
        self._known.update(dict.fromkeys(equation.outputs, bounds))

    def _of_body(self, equation: Equation) -> list[Interval]:
        """The bounds of what a function with a custom derivative gives."""
        (body,) = subprograms(equation)
        inner = bounds_of(body, map(self.of, equation.inputs))
        return [inner.of(atom) for atom in body.outputs]

    def of(self, atom: int | Literal) -> Interval:
        """The bounds of a value or literal, `ANY` where nothing is known."""
        if not isinstance(atom, Literal):
            return self._known.get(atom, ANY)
        value = literal_value(atom)
        return ANY if value is None or math.isnan(value) else _spanning([value], False, value)


def bounds_of(program: Program, inputs: Iterable[Interval] = ()) -> Bounds:
    """The intervals of all values of a program, given those of its first inputs."""
    bounds = Bounds(zip(program.inputs, inputs, strict=False))
    for equation in program.equations:
        bounds.add(equation)
    return bounds
