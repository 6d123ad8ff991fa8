"""The table of inverses: which operands of a primitive can be solved for, and how exactly.

An entry of `INVERSES` maps a primitive object to a function of one equation that lists its inverses. An
equation without one can be replayed, but never inverted. How far each inverse can be trusted is its `Grade`;
see `exactness.py`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Literal
from jax.extend.core import primitives as p

from bwsk_jax.engine.program.jaxprs import Equation, literal_value, present
from bwsk_jax.engine.program.types import is_differentiable, is_real
from bwsk_jax.engine.rules.exactness import Grade, division
from bwsk_jax.engine.rules.intervals import IntervalOf

__all__ = ["INVERSES", "Inverse", "narrowing_condition", "solvable"]


@dataclasses.dataclass(frozen=True, eq=False)
class Inverse:
    """A way to solve an equation for one of its operands.

    Attributes:
      operand: the place of the operand among the equation's inputs.
      apply: `apply(operands, outputs)` returns the operand, given all outputs and the operands that it reads;
        the places of the others hold None.
      grade: how far the result can be trusted.
      amplification: what multiplies an absolute error of the output: a constant, or a factor's usual size.
      reads: the places of the operands that must be known, None for all but `operand`.
      condition: where an inverse holds that does not always, in words.
      usual: whether data as they usually are allow it. Where a function saturates, some of many elements are
        nearly always so close to its limit that their digits are lost.
    """

    operand: int
    apply: Callable[[Sequence[Any], Sequence[Any]], Any]
    grade: Grade
    amplification: float = 1.0
    reads: tuple[int, ...] | None = None
    condition: str = ""
    usual: bool = True

    def given(self, equation: Equation) -> tuple[int, ...]:
        """The places of the operands that it reads."""
        places = range(len(equation.inputs)) if self.reads is None else self.reads
        return tuple(k for k in places if k != self.operand)

    def side_values(self, equation: Equation) -> tuple[int, ...]:
        """The values that must be known beside the outputs, each once; literals always are."""
        atoms = (equation.inputs[k] for k in self.given(equation))
        return tuple(dict.fromkeys(atom for atom in atoms if not isinstance(atom, Literal)))

    def solve(self, equation: Equation, value_of: Callable[[int | Literal], Any]) -> Any:
        """The operand, where `value_of` gives the values of the equation's outputs and of what it reads."""
        operands: list[Any] = [None] * len(equation.inputs)
        for k in self.given(equation):
            operands[k] = value_of(equation.inputs[k])
        return self.apply(operands, [value_of(v) for v in equation.outputs])


# --- inverses ----------------------------------------------------------------------------------------------


def solvable(equation: Equation, operand: int) -> bool:
    """A value of the output's shape that does not occur twice: only then can it be solved for."""
    value = equation.inputs[operand]
    return (
        not isinstance(value, Literal)
        and equation.in_avals[operand].shape == equation.out_avals[0].shape
        and equation.inputs.count(value) == 1
    )


def _sums(solve_first: Callable, solve_second: Callable):
    """Of `add` and `sub`: exact on integers, rounded on floats."""

    def entry(equation, interval_of):
        grade = Grade.ROUNDED if is_differentiable(equation.out_avals[0]) else Grade.EXACT
        if solvable(equation, 0) and _may_be_finite(equation.inputs[1], interval_of):
            yield Inverse(0, lambda ins, outs: solve_first(outs[0], ins[1]), grade)
        if solvable(equation, 1) and _may_be_finite(equation.inputs[0], interval_of):
            yield Inverse(1, lambda ins, outs: solve_second(outs[0], ins[0]), grade)

    return entry


def _may_be_finite(atom, interval_of) -> bool:
    """Whether nothing says that the value is infinite or no number."""
    constant, bounds = literal_value(atom), interval_of(atom)
    return bounds.low < math.inf and bounds.high > -math.inf if constant is None else math.isfinite(constant)


def _scales(constant: float, dtype) -> bool:
    """Whether a constant can be divided by: what is below the normal numbers may be taken for 0."""
    return math.isfinite(constant) and abs(constant) >= float(jnp.finfo(dtype).tiny)


def _mul(equation, interval_of):
    if not is_differentiable(equation.out_avals[0]):
        return
    for operand in (0, 1):
        other = equation.inputs[1 - operand]
        if not solvable(equation, operand) or not _may_be_finite(other, interval_of):
            continue
        solve = lambda ins, outs, other=1 - operand: lax.div(outs[0], ins[other])
        constant = literal_value(other)
        if constant is None:
            grade, growth = division(interval_of(other))
            yield Inverse(operand, solve, grade, growth, condition="the other factor is not 0")
        elif _scales(constant, other.aval.dtype):
            yield Inverse(operand, solve, Grade.RELATIVE, amplification=1 / abs(constant))


def _div(equation, interval_of):
    if not is_differentiable(equation.out_avals[0]):
        return
    denominator = equation.inputs[1]
    if solvable(equation, 0):
        solve = lambda ins, outs: lax.mul(outs[0], ins[1])
        constant = literal_value(denominator)
        if constant is None:
            # A quotient that underflows comes back as 0, for a number below 1e-31. No sum shows that; what
            # compares, divides or takes a logarithm does not read what comes straight from an inverse.
            grade = Grade.RELATIVE if interval_of(denominator).multiplies else Grade.GUARDED
            yield Inverse(0, solve, grade, condition="the quotient does not underflow")
        elif _scales(constant, denominator.aval.dtype):
            yield Inverse(0, solve, Grade.RELATIVE, amplification=abs(constant))
    numerator = literal_value(equation.inputs[0])
    if solvable(equation, 1) and (numerator is None or _scales(numerator, equation.out_avals[0].dtype)):
        solve = lambda ins, outs: lax.div(ins[0], outs[0])
        yield Inverse(1, solve, Grade.GUARDED, condition="the quotient is not 0")


def _unary(solve: Callable, grade: Grade, condition: str = ""):
    def entry(equation, interval_of):
        # On complex numbers most elementary functions repeat themselves: only the exact ones have one
        # inverse.
        if is_real(equation.in_avals[0]) or grade is Grade.EXACT:
            usual = condition != _SATURATES
            yield Inverse(0, lambda ins, outs: solve(outs[0]), grade, condition=condition, usual=usual)

    return entry


def _integer_pow(equation, interval_of):
    power = equation.params["y"]
    if not is_real(equation.out_avals[0]) or power % 2 == 0:
        return
    root = lambda z: lax.sign(z) * lax.pow(lax.abs(z), jnp.asarray(1 / power, z.dtype))
    yield Inverse(0, lambda ins, outs: root(outs[0]), Grade.GUARDED, condition="the power does not underflow")


def _convert(equation, interval_of):
    source, target = equation.in_avals[0].dtype, equation.out_avals[0].dtype
    complex_of = lambda dtype: jnp.issubdtype(dtype, jnp.complexfloating)
    part = lax.real if complex_of(target) and not complex_of(source) else _same
    back = lambda ins, outs: lax.convert_element_type(part(outs[0]), source)
    if _embeds(source, target):
        yield Inverse(0, back, Grade.EXACT)
    elif jnp.issubdtype(source, jnp.floating) and jnp.issubdtype(target, jnp.floating):
        narrow, least = jnp.finfo(target), max(float(jnp.finfo(t).tiny) for t in (source, target))
        condition = narrowing_condition(least, float(narrow.max), signed=float(narrow.min) < 0)
        yield Inverse(0, back, Grade.NARROWED, condition=condition)


def narrowing_condition(least: float, most: float, *, signed: bool = True) -> str:
    """Where a type whose normal numbers have these sizes keeps the digits of x that it has room for."""
    if signed:
        return f"x is 0, or between {least:.3g} and {most:.3g} in size"
    return f"x is between {least:.3g} and {most:.3g}"


def _embeds(source, target) -> bool:
    """Whether every value of one type is a value of the other."""
    if source == target or source == jnp.bool_:
        return True
    kind = lambda dtype: next(
        k for k in (jnp.integer, jnp.floating, jnp.complexfloating) if jnp.issubdtype(dtype, k)
    )
    try:
        a, b = kind(source), kind(target)
    except StopIteration:  # a key or another extended type
        return False
    if a is jnp.integer and b is jnp.integer:
        return (
            jnp.iinfo(target).min <= jnp.iinfo(source).min and jnp.iinfo(source).max <= jnp.iinfo(target).max
        )
    if b is jnp.complexfloating and a is not b:
        return _embeds(source, jnp.finfo(target).dtype)
    if a is jnp.integer and b is jnp.floating:
        if float(jnp.finfo(target).min) > 0:  # a type of scales, which has neither 0 nor a sign
            return False
        return jnp.iinfo(source).bits - (jnp.iinfo(source).min < 0) <= jnp.finfo(target).nmant + 1
    if a is b is jnp.floating:
        small, large = jnp.finfo(source), jnp.finfo(target)
        if _has_infinity(source) and not _has_infinity(target):
            return False
        return small.nmant <= large.nmant and small.maxexp <= large.maxexp and small.minexp >= large.minexp
    return a is b and jnp.finfo(source).bits <= jnp.finfo(target).bits


def _has_infinity(dtype) -> bool:
    return bool(np.isinf(np.asarray(np.inf, dtype)))


def _bitcast(equation, interval_of):
    source, target = equation.in_avals[0].dtype, equation.out_avals[0].dtype
    if jnp.bool_ not in (source, target):
        yield Inverse(0, lambda ins, outs: lax.bitcast_convert_type(outs[0], source), Grade.EXACT)


def _to_operand_shape(equation, interval_of):
    shape = equation.in_avals[0].shape
    yield Inverse(0, lambda ins, outs: lax.reshape(outs[0], shape), Grade.EXACT)


def _reshape(equation, interval_of):
    order = equation.params.get("dimensions")
    if order is None:
        yield from _to_operand_shape(equation, interval_of)
        return
    permuted = [equation.in_avals[0].shape[axis] for axis in order]
    back = lambda z: lax.transpose(lax.reshape(z, permuted), np.argsort(order))
    yield Inverse(0, lambda ins, outs: back(outs[0]), Grade.EXACT)


def _broadcast(equation, interval_of):
    """One copy of each element, by a slice along the dimensions that were spread."""
    aval, out = equation.in_avals[0], equation.out_avals[0]
    if isinstance(equation.inputs[0], Literal) or 0 in out.shape or len(equation.inputs) != 1:
        return
    kept = dict(zip(equation.params["broadcast_dimensions"], aval.shape, strict=True))
    limits = [kept.get(axis, 1) for axis in range(len(out.shape))]
    yield Inverse(
        0,
        lambda ins, outs: lax.reshape(lax.slice(outs[0], [0] * len(limits), limits), aval.shape),
        Grade.EXACT,
    )


def _transpose(equation, interval_of):
    permutation = tuple(int(i) for i in np.argsort(equation.params["permutation"]))
    yield Inverse(0, lambda ins, outs: lax.transpose(outs[0], permutation), Grade.EXACT)


def _rev(equation, interval_of):
    yield Inverse(0, lambda ins, outs: lax.rev(outs[0], equation.params["dimensions"]), Grade.EXACT)


def _concatenate(equation, interval_of):
    axis, start = equation.params["dimension"], 0
    for operand, aval in enumerate(equation.in_avals):
        stop = start + aval.shape[axis]
        if not isinstance(equation.inputs[operand], Literal):
            solve = lambda ins, outs, a=start, b=stop: lax.slice_in_dim(outs[0], a, b, axis=axis)
            yield Inverse(operand, solve, Grade.EXACT, reads=())
        start = stop


def _split(equation, interval_of):
    yield Inverse(0, lambda ins, outs: lax.concatenate(outs, equation.params["axis"]), Grade.EXACT)


def _pad(equation, interval_of):
    config = equation.params["padding_config"]
    if any(low < 0 or high < 0 for low, high, _ in config) or isinstance(equation.inputs[0], Literal):
        return
    shape = equation.in_avals[0].shape
    if 0 in shape:
        return
    starts = [low for low, _, _ in config]
    strides = [interior + 1 for _, _, interior in config]
    limits = [a + (n - 1) * s + 1 for a, n, s in zip(starts, shape, strides, strict=True)]
    yield Inverse(0, lambda ins, outs: lax.slice(outs[0], starts, limits, strides), Grade.EXACT, reads=())


def _dynamic_update_slice(equation, interval_of):
    """What was written can be read back; what was overwritten is gone."""
    sizes = equation.in_avals[1].shape
    if _distinct(equation, 1):
        where = tuple(range(2, len(equation.inputs)))
        solve = lambda ins, outs: lax.dynamic_slice(outs[0], ins[2:], sizes)
        yield Inverse(1, solve, Grade.EXACT, reads=where)


def _xor(equation, interval_of):
    for operand in (0, 1):
        if solvable(equation, operand):
            solve = lambda ins, outs, other=1 - operand: lax.bitwise_xor(outs[0], ins[other])
            yield Inverse(operand, solve, Grade.EXACT)


def _complex(equation, interval_of):
    for operand, part in enumerate((lax.real, lax.imag)):
        if not isinstance(equation.inputs[operand], Literal):
            yield Inverse(operand, lambda ins, outs, part=part: part(outs[0]), Grade.EXACT, reads=())


def _barrier(equation, interval_of):
    for operand in range(len(equation.inputs)):
        if not isinstance(equation.inputs[operand], Literal):
            yield Inverse(operand, lambda ins, outs, k=operand: outs[k], Grade.EXACT, reads=())


def _distinct(equation, operand) -> bool:
    value = equation.inputs[operand]
    return not isinstance(value, Literal) and equation.inputs.count(value) == 1


def _stack(equation, interval_of):
    axis = equation.params["axis"]
    for operand in range(len(equation.inputs)):
        if not isinstance(equation.inputs[operand], Literal):
            solve = lambda ins, outs, k=operand: lax.index_in_dim(outs[0], k, axis, keepdims=False)
            yield Inverse(operand, solve, Grade.EXACT, reads=())


def _unstack(equation, interval_of):
    yield Inverse(0, lambda ins, outs: jnp.stack(outs, equation.params["axis"]), Grade.EXACT)


def _tile(equation, interval_of):
    shape = equation.in_avals[0].shape
    if 0 not in equation.out_avals[0].shape:
        yield Inverse(0, lambda ins, outs: lax.slice(outs[0], [0] * len(shape), shape), Grade.EXACT)


_same = lambda z: z
_square = lambda z: z * z
_one = lambda z: jnp.ones((), z.dtype)
_IN_RANGE = "the result neither underflows nor overflows"
_SATURATES = "the result is not at a limit of the function, near which digits are lost"

INVERSES: dict[Any, Callable[[Equation, IntervalOf], Any]] = {
    # sums and products
    p.add_p: _sums(lax.sub, lax.sub),
    p.add_jaxvals_p: _sums(lax.sub, lax.sub),
    p.sub_p: _sums(lax.add, lambda z, x: lax.sub(x, z)),
    p.mul_p: _mul,
    p.div_p: _div,
    p.neg_p: _unary(lax.neg, Grade.EXACT),
    p.integer_pow_p: _integer_pow,
    # elementary functions
    p.exp_p: _unary(lax.log, Grade.GUARDED, _IN_RANGE),
    p.exp2_p: _unary(lambda z: lax.log(z) / jnp.asarray(math.log(2), z.dtype), Grade.GUARDED, _IN_RANGE),
    **dict.fromkeys(present("log2_p"), _unary(lax.exp2, Grade.GUARDED, "error grows with |log2 x|")),
    p.log_p: _unary(lax.exp, Grade.GUARDED, "error grows with |log x|"),
    p.expm1_p: _unary(lax.log1p, Grade.GUARDED, _SATURATES),
    p.log1p_p: _unary(lax.expm1, Grade.GUARDED, "error grows with |log1p x|"),
    p.tanh_p: _unary(lax.atanh, Grade.GUARDED, _SATURATES),
    p.atanh_p: _unary(lax.tanh, Grade.ROUNDED),
    p.sinh_p: _unary(lax.asinh, Grade.ROUNDED),
    p.asinh_p: _unary(lax.sinh, Grade.GUARDED, "error grows with |asinh x|"),
    p.asin_p: _unary(lax.sin, Grade.ROUNDED),
    p.acos_p: _unary(lax.cos, Grade.ROUNDED),
    p.atan_p: _unary(lax.tan, Grade.GUARDED, _SATURATES),
    p.acosh_p: _unary(lax.cosh, Grade.GUARDED, "x > 1; error grows with acosh x"),
    p.logistic_p: _unary(lambda z: lax.log(z) - lax.log1p(-z), Grade.GUARDED, _SATURATES),
    p.erf_p: _unary(lax.erf_inv, Grade.GUARDED, _SATURATES),
    p.erf_inv_p: _unary(lax.erf, Grade.ROUNDED),
    p.sqrt_p: _unary(_square, Grade.RELATIVE),
    p.rsqrt_p: _unary(lambda z: _one(z) / _square(z), Grade.GUARDED, "x is neither 0 nor infinite"),
    p.cbrt_p: _unary(lambda z: z * z * z, Grade.RELATIVE),
    # types and bits
    p.convert_element_type_p: _convert,
    p.bitcast_convert_type_p: _bitcast,
    p.not_p: _unary(lax.bitwise_not, Grade.EXACT),
    p.xor_p: _xor,
    p.complex_p: _complex,
    p.conj_p: _unary(lax.conj, Grade.EXACT),
    # shapes and copies
    p.reshape_p: _reshape,
    p.squeeze_p: _to_operand_shape,
    p.broadcast_in_dim_p: _broadcast,
    p.transpose_p: _transpose,
    p.rev_p: _rev,
    p.concatenate_p: _concatenate,
    lax.split_p: _split,
    lax.stack_p: _stack,
    lax.unstack_p: _unstack,
    lax.tile_p: _tile,
    p.pad_p: _pad,
    p.dynamic_update_slice_p: _dynamic_update_slice,
    p.copy_p: _unary(_same, Grade.EXACT),
    p.stop_gradient_p: _unary(_same, Grade.EXACT),
    p.sharding_constraint_p: _unary(_same, Grade.EXACT),
    p.name_p: _unary(_same, Grade.EXACT),
    lax.optimization_barrier_p: _barrier,
}
