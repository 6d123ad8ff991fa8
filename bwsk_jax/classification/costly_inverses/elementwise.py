"""Costly inverses of elementwise functions, and of sums and products of which one operand was broadcast."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Literal
from jax.extend.core import primitives as p

from bwsk_jax.classification.values import ValueInfo
from bwsk_jax.engine.program.jaxprs import Equation, literal_value
from bwsk_jax.engine.program.types import is_differentiable, is_real
from bwsk_jax.engine.rules.exactness import Grade
from bwsk_jax.engine.rules.inverses import Inverse, narrowing_condition, solvable

__all__ = ["OF_ELEMENTWISE_FUNCTIONS"]


# --- operands that were broadcast --------------------------------------------------------------------------


def _first_copy(v, shape):
    """Of a value that was broadcast from `shape`, the first of the copies."""
    if shape == ():
        return lax.reshape(lax.slice(v, [0] * v.ndim, [1] * v.ndim), ())
    return lax.slice(v, [0] * v.ndim, np.minimum(shape, v.shape))


def _broadcast(equation, grade: Grade, solves: Iterable[Callable], condition: str = "") -> Iterator[Inverse]:
    """Solve for an operand that was broadcast over the other: one of its copies is enough.

    `solves[k](out, other)` gives operand k back, as if nothing had been broadcast.
    """
    shape = equation.out_avals[0].shape
    for operand, solve in enumerate(solves):
        own = equation.in_avals[operand].shape
        if own == shape or isinstance(equation.inputs[operand], Literal) or 0 in shape:
            continue
        back = lambda ins, outs, k=operand, own=own, solve=solve: solve(
            _first_copy(outs[0], own), _first_copy(ins[1 - k], own)
        )
        yield Inverse(operand, back, grade, condition=condition)


def _broadcast_sum(*solves: Callable):
    """An entry for sums and differences."""

    def entry(equation, info):
        grade = Grade.ROUNDED if is_differentiable(equation.out_avals[0]) else Grade.EXACT
        return _broadcast(equation, grade, solves)

    return entry


def _broadcast_product(*solves: Callable, condition: str):
    """An entry for products and quotients."""

    def entry(equation, info):
        if is_differentiable(equation.out_avals[0]):
            yield from _broadcast(equation, Grade.GUARDED, solves, condition)

    return entry


def _add(equation, info):
    """Halve x + x, and solve other sums for an operand that was broadcast."""
    if equation.inputs[0] == equation.inputs[1] and is_differentiable(equation.out_avals[0]):
        yield Inverse(0, lambda ins, outs: outs[0] / 2, Grade.RELATIVE, reads=())
    yield from _broadcast_sum(lax.sub, lax.sub)(equation, info)


# --- powers and angles -----------------------------------------------------------------------------------


def _pow(equation, info):
    if not all(map(is_real, equation.in_avals)):
        return
    base, power = map(literal_value, equation.inputs)
    if solvable(equation, 0) and (power is None or (power != 0 and math.isfinite(power))):
        solve = lambda ins, outs: lax.pow(outs[0], 1 / ins[1])
        yield Inverse(0, solve, Grade.GUARDED, condition="the base is above 0 and the power is not 0")
    if solvable(equation, 1) and (base is None or (0 < base < math.inf and base != 1)):
        solve = lambda ins, outs: lax.log(outs[0]) / lax.log(ins[0])
        yield Inverse(1, solve, Grade.GUARDED, condition="the base is above 0 and not 1")


def _atan2(equation, info):
    if solvable(equation, 0):
        solve = lambda ins, outs: ins[1] * lax.tan(outs[0])
        yield Inverse(0, solve, Grade.GUARDED, condition="the second operand is not 0")


def _erfc(equation, info):
    solve = lambda ins, outs: lax.erf_inv(1 - outs[0])
    yield Inverse(0, solve, Grade.GUARDED, condition="the result is not near 0 or 2")


# --- what does nothing -------------------------------------------------------------------------------------


def _handed_on(equation, operand: int, grade: Grade = Grade.EXACT) -> Iterator[Inverse]:
    """The result is this operand, if that has the result's shape."""
    if solvable(equation, operand):
        yield Inverse(operand, lambda ins, outs: outs[0], grade, reads=())


def _bounds(atom, aval, info) -> tuple[float, float]:
    """The least and the largest value that an operand may have, exactly; infinite where nothing is known."""
    if isinstance(atom, Literal) and np.ndim(atom.val) == 0 and not is_real(aval):
        return int(atom.val), int(atom.val)
    if not is_real(aval):
        whole = jnp.issubdtype(aval.dtype, jnp.integer)
        return (int(jnp.iinfo(aval.dtype).min), int(jnp.iinfo(aval.dtype).max)) if whole else (0, 1)
    interval, most = info.interval(atom), float(jnp.finfo(aval.dtype).max)
    if isinstance(atom, Literal):
        return interval.low, interval.high
    # A computed value beyond the largest number is infinite, which intervals leave out.
    low, high = (b if abs(b) < most else math.copysign(math.inf, b) for b in (interval.low, interval.high))
    return low, high


def _extremum(equation, info):
    """Take the result of `max` or `min` for the operand that the other one is never beyond.

    Bounds of computed floats are right to rounding, and for `max` zeros of either sign are equal.
    """
    if not all(is_real(aval) or not is_differentiable(aval) for aval in equation.in_avals):
        return
    bounds = [_bounds(*each, info) for each in zip(equation.inputs, equation.in_avals, strict=True)]
    for operand, other in ((0, 1), (1, 0)):
        (least, most), (low, high) = bounds[operand], bounds[other]
        if equation.primitive is p.min_p:
            least, high = -most, -low
        if high <= least:
            exact = math.isinf(high) or not is_real(equation.out_avals[0])
            yield from _handed_on(equation, operand, Grade.EXACT if exact else Grade.RELATIVE)


def _clamp(equation, info):
    """Take the result for the operand that is never beyond a bound."""
    (_, low), (least, most), (high, _) = (
        _bounds(*each, info) for each in zip(equation.inputs, equation.in_avals, strict=True)
    )
    if low <= least and most <= high:
        exact = (math.isinf(low) and math.isinf(high)) or not is_real(equation.out_avals[0])
        yield from _handed_on(equation, 1, Grade.EXACT if exact else Grade.RELATIVE)


def _bitwise(neutral: int):
    """An entry for `and` and `or`, which hand on the operand beside a constant of all ones, or of zeros."""

    def entry(equation, info):
        dtype = equation.out_avals[0].dtype
        for operand, other in ((0, 1), (1, 0)):
            atom = equation.inputs[other]
            if isinstance(atom, Literal) and np.all(
                np.asarray(atom.val) == np.asarray(neutral).astype(dtype)
            ):
                yield from _handed_on(equation, operand)

    return entry


# --- integers and types ------------------------------------------------------------------------------------


def _mul(equation, info):
    """Multiply by the inverse of an odd factor, modulo 2 to the number of bits; divide by other factors."""
    dtype = equation.out_avals[0].dtype
    if not jnp.issubdtype(dtype, jnp.integer):
        yield from _broadcast_product(lax.div, lax.div, condition="the first other factor of each is not 0")(
            equation, info
        )
        return
    modulus = 2 ** jnp.iinfo(dtype).bits
    for operand, other in ((0, 1), (1, 0)):
        atom = equation.inputs[other]
        constant = int(atom.val) if isinstance(atom, Literal) and np.ndim(atom.val) == 0 else 0
        if constant % 2 and solvable(equation, operand):
            back = pow(constant % modulus, -1, modulus)
            factor = back - modulus if back > jnp.iinfo(dtype).max else back
            solve = lambda ins, outs, factor=factor: outs[0] * jnp.asarray(factor, dtype)
            yield Inverse(operand, solve, Grade.EXACT, reads=())


def _convert(equation, info):
    """Cast integers back from a type of as many bits: what does not fit was wrapped, and is wrapped back."""
    source, target = equation.in_avals[0].dtype, equation.out_avals[0].dtype
    whole = all(jnp.issubdtype(dtype, jnp.integer) for dtype in (source, target))
    if whole and jnp.iinfo(source).bits <= jnp.iinfo(target).bits:
        yield Inverse(0, lambda ins, outs: lax.convert_element_type(outs[0], source), Grade.EXACT)


def _reduce_precision(equation, info):
    """Take the result for the operand, which it is up to the digits that were dropped."""
    exponent_bits, digits = equation.params["exponent_bits"], equation.params["mantissa_bits"]
    bias = min(2 ** (exponent_bits - 1) - 1, jnp.finfo(jnp.float64).maxexp - 1)
    condition = narrowing_condition(2.0 ** (1 - bias), (2 - 2.0**-digits) * 2.0**bias)
    yield Inverse(0, lambda ins, outs: outs[0], Grade.NARROWED, condition=condition)


OF_ELEMENTWISE_FUNCTIONS: dict[Any, Callable[[Equation, ValueInfo], Iterable[Inverse]]] = {
    p.add_p: _add,
    p.sub_p: _broadcast_sum(lax.add, lambda z, x: x - z),
    p.mul_p: _mul,
    p.div_p: _broadcast_product(
        lax.mul, lambda z, x: x / z, condition="the first quotient of each is not 0, nor underflows"
    ),
    p.pow_p: _pow,
    p.atan2_p: _atan2,
    p.erfc_p: _erfc,
    **dict.fromkeys((p.max_p, p.min_p), _extremum),
    p.clamp_p: _clamp,
    p.and_p: _bitwise(-1),
    p.or_p: _bitwise(0),
    p.convert_element_type_p: _convert,
    p.reduce_precision_p: _reduce_precision,
}
"""The part of `COSTLY_INVERSES` that this file gives."""
