"""The S/K table: which operands of a primitive can be solved for, how exactly, and what it costs to run.

An entry of `INVERSES` maps a primitive object to a function of one equation that lists its inverses. A
primitive without an entry erases (K): it can be replayed, never inverted.

How far an inverse can be trusted is one of four grades, from the arithmetic it uses:

======== ===================================================================================================
EXACT     bit for bit (shapes, integers, widening casts)
ROUNDED   to the rounding of its operands, unless they cancel (sums, division by a constant)
GUARDED   only where the data allow it (division by data, the logarithm of what may be 0): needs a guard
NARROWED  to the precision of a narrower type (the inverse of a narrowing cast)
======== ===================================================================================================

Rounding of recovered values is estimated to first order, as in the running error analysis of N. J. Higham,
*Accuracy and Stability of Numerical Algorithms*, 2nd ed., §3.3; see `reversible.py`.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Literal
from jax.extend.core import primitives as p

from bwsk_jax.engine.jaxprs import Equation, Program, subprograms

__all__ = ["INVERSES", "LIPSCHITZ", "Grade", "Interval", "Inverse", "cost", "interval", "inverses", "mixes"]


class Grade(enum.Enum):
    """How far the result of an inverse can be trusted."""

    EXACT = "exact"
    ROUNDED = "rounded"
    GUARDED = "guarded"
    NARROWED = "narrowed"


@dataclasses.dataclass(frozen=True, eq=False)
class Inverse:
    """Solve an equation for `operand`.

    `solve(operands, outputs)` returns it, given the outputs and the operands numbered in `reads` (all others
    unless told; the places of the rest hold None). `amplification` is the factor by which a constant in the
    equation multiplies absolute error on the way back.
    """

    operand: int
    solve: Callable[[Sequence[Any], Sequence[Any]], Any]
    grade: Grade
    amplification: float = 1.0
    reads: tuple[int, ...] | None = None


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
IntervalOf = Callable[[int | Literal], Interval]


# --- inverses ----------------------------------------------------------------------------------------------


def _is_float(aval) -> bool:
    return jnp.issubdtype(aval.dtype, jnp.inexact)


def _is_real(aval) -> bool:
    return jnp.issubdtype(aval.dtype, jnp.floating)


def _literal(atom) -> float | None:
    """A literal's value where it is a real scalar."""
    if isinstance(atom, Literal) and np.ndim(atom.val) == 0 and np.isrealobj(atom.val):
        return float(atom.val)
    return None


def _solvable(equation: Equation, operand: int) -> bool:
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
        grade = Grade.ROUNDED if _is_float(equation.out_avals[0]) else Grade.EXACT
        if _solvable(equation, 0):
            yield Inverse(0, lambda ins, outs: solve_first(outs[0], ins[1]), grade)
        if _solvable(equation, 1):
            yield Inverse(1, lambda ins, outs: solve_second(outs[0], ins[0]), grade)

    return entry


def _mul(equation, interval_of):
    if not _is_float(equation.out_avals[0]):
        return
    for operand in (0, 1):
        other = equation.inputs[1 - operand]
        if not _solvable(equation, operand):
            continue
        solve = lambda ins, outs, other=1 - operand: lax.div(outs[0], ins[other])
        constant = _literal(other)
        if constant is None:
            grade = Grade.ROUNDED if interval_of(other).divides else Grade.GUARDED
            yield Inverse(operand, solve, grade)
        elif constant != 0 and math.isfinite(constant):
            yield Inverse(operand, solve, Grade.ROUNDED, amplification=1 / abs(constant))


def _div(equation, interval_of):
    if not _is_float(equation.out_avals[0]):
        return
    denominator = equation.inputs[1]
    if _solvable(equation, 0):
        solve = lambda ins, outs: lax.mul(outs[0], ins[1])
        constant = _literal(denominator)
        if constant is None:
            grade = Grade.ROUNDED if interval_of(denominator).multiplies else Grade.GUARDED
            yield Inverse(0, solve, grade)
        elif constant != 0 and math.isfinite(constant):
            yield Inverse(0, solve, Grade.ROUNDED, amplification=abs(constant))
    if _solvable(equation, 1):
        yield Inverse(1, lambda ins, outs: lax.div(ins[0], outs[0]), Grade.GUARDED)


def _unary(solve: Callable, grade: Grade):
    def entry(equation, interval_of):
        # On complex numbers most elementary functions repeat themselves: only the exact ones have one
        # inverse.
        if _is_real(equation.in_avals[0]) or grade is Grade.EXACT:
            yield Inverse(0, lambda ins, outs: solve(outs[0]), grade)

    return entry


def _integer_pow(equation, interval_of):
    power = equation.params["y"]
    if not _is_real(equation.out_avals[0]) or power % 2 == 0:
        return
    root = lambda z: lax.sign(z) * lax.pow(lax.abs(z), jnp.asarray(1 / power, z.dtype))
    yield Inverse(0, lambda ins, outs: root(outs[0]), Grade.GUARDED)


def _convert(equation, interval_of):
    source, target = equation.in_avals[0].dtype, equation.out_avals[0].dtype
    back = lambda ins, outs: lax.convert_element_type(outs[0], source)
    if _embeds(source, target):
        yield Inverse(0, back, Grade.EXACT)
    elif jnp.issubdtype(source, jnp.floating) and jnp.issubdtype(target, jnp.floating):
        yield Inverse(0, back, Grade.NARROWED)


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
    if a is jnp.integer and b is jnp.floating:
        return jnp.iinfo(source).bits - (jnp.iinfo(source).min < 0) <= jnp.finfo(target).nmant + 1
    if a is b is jnp.floating:
        small, large = jnp.finfo(source), jnp.finfo(target)
        return small.nmant <= large.nmant and small.maxexp <= large.maxexp and small.minexp >= large.minexp
    return a is b and jnp.finfo(source).bits <= jnp.finfo(target).bits


def _bitcast(equation, interval_of):
    source, target = equation.in_avals[0].dtype, equation.out_avals[0].dtype
    if source.itemsize == target.itemsize and jnp.bool_ not in (source, target):
        yield Inverse(0, lambda ins, outs: lax.bitcast_convert_type(outs[0], source), Grade.EXACT)


def _to_operand_shape(equation, interval_of):
    shape = equation.in_avals[0].shape
    yield Inverse(0, lambda ins, outs: lax.reshape(outs[0], shape), Grade.EXACT)


def _reshape(equation, interval_of):
    if equation.params.get("dimensions") is None:
        yield from _to_operand_shape(equation, interval_of)


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
        if _solvable(equation, operand):
            solve = lambda ins, outs, other=1 - operand: lax.bitwise_xor(outs[0], ins[other])
            yield Inverse(operand, solve, Grade.EXACT)


def _complex(equation, interval_of):
    for operand, part in enumerate((lax.real, lax.imag)):
        if _distinct(equation, operand):
            yield Inverse(operand, lambda ins, outs, part=part: part(outs[0]), Grade.EXACT, reads=())


def _barrier(equation, interval_of):
    for operand in range(len(equation.inputs)):
        if not isinstance(equation.inputs[operand], Literal):
            yield Inverse(operand, lambda ins, outs, k=operand: outs[k], Grade.EXACT, reads=())


def _distinct(equation, operand) -> bool:
    value = equation.inputs[operand]
    return not isinstance(value, Literal) and equation.inputs.count(value) == 1


_same = lambda z: z
_square = lambda z: z * z
_one = lambda z: jnp.ones((), z.dtype)

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
    p.exp_p: _unary(lax.log, Grade.GUARDED),
    p.exp2_p: _unary(lambda z: lax.log(z) / jnp.asarray(math.log(2), z.dtype), Grade.GUARDED),
    p.log_p: _unary(lax.exp, Grade.GUARDED),
    p.expm1_p: _unary(lax.log1p, Grade.GUARDED),
    p.log1p_p: _unary(lax.expm1, Grade.GUARDED),
    p.tanh_p: _unary(lax.atanh, Grade.GUARDED),
    p.atanh_p: _unary(lax.tanh, Grade.ROUNDED),
    p.sinh_p: _unary(lax.asinh, Grade.ROUNDED),
    p.asinh_p: _unary(lax.sinh, Grade.GUARDED),
    p.asin_p: _unary(lax.sin, Grade.ROUNDED),
    p.acos_p: _unary(lax.cos, Grade.ROUNDED),
    p.atan_p: _unary(lax.tan, Grade.GUARDED),
    p.acosh_p: _unary(lax.cosh, Grade.GUARDED),
    p.logistic_p: _unary(lambda z: lax.log(z) - lax.log1p(-z), Grade.GUARDED),
    p.erf_p: _unary(lax.erf_inv, Grade.GUARDED),
    p.erf_inv_p: _unary(lax.erf, Grade.ROUNDED),
    p.erfc_p: _unary(lambda z: lax.erf_inv(_one(z) - z), Grade.GUARDED),
    p.sqrt_p: _unary(_square, Grade.ROUNDED),
    p.rsqrt_p: _unary(lambda z: _one(z) / _square(z), Grade.GUARDED),
    p.cbrt_p: _unary(lambda z: z * z * z, Grade.ROUNDED),
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
    p.pad_p: _pad,
    p.dynamic_update_slice_p: _dynamic_update_slice,
    p.copy_p: _unary(_same, Grade.EXACT),
    p.stop_gradient_p: _unary(_same, Grade.EXACT),
    p.name_p: _unary(_same, Grade.EXACT),
    lax.optimization_barrier_p: _barrier,
}


def inverses(equation: Equation, interval_of: IntervalOf = lambda _: ANY) -> list[Inverse]:
    """The inverses that the table has for this equation."""
    entry = INVERSES.get(equation.primitive)
    return [] if entry is None else list(entry(equation, interval_of))


# --- what recovered values may be used for -----------------------------------------------------------------

LIPSCHITZ = {
    *(p.add_p, p.add_jaxvals_p, p.sub_p, p.mul_p, p.neg_p, p.square_p, p.abs_p, p.max_p, p.min_p, p.clamp_p),
    *(p.exp_p, p.exp2_p, p.expm1_p, p.tanh_p, p.logistic_p, p.erf_p, p.erfc_p, p.sin_p, p.cos_p, p.sinh_p),
    *(p.cosh_p, p.asinh_p, p.atan_p, p.select_n_p, p.real_p, p.imag_p, p.complex_p, p.conj_p),
    *(p.reshape_p, p.squeeze_p, p.broadcast_in_dim_p, p.transpose_p, p.rev_p, p.slice_p, p.concatenate_p),
    *(p.pad_p, p.copy_p, p.stop_gradient_p, p.name_p, lax.split_p, lax.optimization_barrier_p),
    *(p.gather_p, p.dynamic_slice_p, p.dynamic_update_slice_p, p.scatter_p, p.scatter_add_p, p.scatter_mul_p),
    *(p.reduce_sum_p, p.reduce_max_p, p.reduce_min_p, p.reduce_prod_p, p.cumsum_p, p.cummax_p, p.cummin_p),
    *(p.dot_general_p, p.conv_general_dilated_p, p.reduce_window_sum_p, p.reduce_window_max_p, p.fft_p),
    *(p.reduce_window_min_p, p.psum_p, p.all_gather_p, p.ppermute_p),
}
"""Primitives that change their result by rounding when an operand changes by rounding, on bounded inputs.

All others might compare or jump, or have a singularity near which a small absolute error is a large relative
one: they are replayed only from values that no inverse has rounded. (`max` itself is harmless; the comparison
in its derivative is an equation of its own.)"""


def sensitive_inputs(equation: Equation) -> tuple[int, ...]:
    """The values whose rounding the equation might blow up."""
    primitive = equation.primitive
    if primitive is p.div_p:
        return tuple(v for v in equation.inputs[1:] if not isinstance(v, Literal))
    if primitive is p.integer_pow_p and equation.params["y"] > 0:
        return ()
    if primitive is p.convert_element_type_p and _is_float(equation.out_avals[0]):
        return ()
    if primitive in LIPSCHITZ:
        return ()
    bodies = list(subprograms(equation))
    if bodies and not any(sensitive_inputs(inner) for body in bodies for inner in body.equations):
        return ()
    return tuple(v for v, a in zip(equation.inputs, equation.in_avals, strict=True) if _reads_float(v, a))


def _reads_float(value, aval) -> bool:
    return not isinstance(value, Literal) and _is_float(aval)


MIXING = {
    *(p.dot_general_p, p.conv_general_dilated_p, p.reduce_sum_p, p.reduce_window_sum_p, p.cumsum_p, p.fft_p),
    *(p.scan_p, p.while_p, p.reduce_prod_p, p.triangular_solve_p),
}


def mixes(equation: Equation) -> bool:
    """Whether each result depends on many operand elements: then a tie or a singularity that rounding could
    tip over is an accident of measure zero in the original as well, and its result counts as untouched."""
    return equation.primitive in MIXING


# --- intervals ---------------------------------------------------------------------------------------------


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
    if len(equation.outputs) != 1 or not _is_real(equation.out_avals[0]):
        return ANY
    rule = _INTERVALS.get(equation.primitive)
    if equation.primitive in _SAME_INTERVAL and _is_real(equation.in_avals[0]):
        rule = lambda operand, *_: operand
    return (ANY if rule is None else rule(*operands)).within(equation.out_avals[0].dtype)


def literal_interval(literal: Literal) -> Interval:
    """A literal is its own bound."""
    value = _literal(literal)
    return ANY if value is None or math.isnan(value) else Interval(value, value)


# --- cost --------------------------------------------------------------------------------------------------

_FREE = {
    *(
        p.reshape_p,
        p.squeeze_p,
        p.broadcast_in_dim_p,
        p.transpose_p,
        p.rev_p,
        p.slice_p,
        p.concatenate_p,
        p.pad_p,
    ),
    *(p.convert_element_type_p, p.bitcast_convert_type_p, p.copy_p, p.stop_gradient_p, p.name_p, p.iota_p),
    *(lax.split_p, lax.optimization_barrier_p, p.real_p, p.imag_p, p.complex_p, p.conj_p),
    *(p.gather_p, p.dynamic_slice_p, p.dynamic_update_slice_p),
}
_TRANSCENDENTAL = {
    *(
        p.exp_p,
        p.exp2_p,
        p.log_p,
        p.log1p_p,
        p.expm1_p,
        p.tanh_p,
        p.logistic_p,
        p.pow_p,
        p.sin_p,
        p.cos_p,
        p.tan_p,
    ),
    *(p.asin_p, p.acos_p, p.atan_p, p.atan2_p, p.sinh_p, p.cosh_p, p.asinh_p, p.acosh_p, p.atanh_p, p.sqrt_p),
    *(p.rsqrt_p, p.cbrt_p, p.erf_p, p.erfc_p, p.erf_inv_p, p.lgamma_p, p.digamma_p),
}
_RANDOM = {p.random_bits_p, p.threefry2x32_p, p.rng_bit_generator_p}
_REDUCTIONS = {p.reduce_sum_p, p.reduce_max_p, p.reduce_min_p, p.reduce_prod_p, p.reduce_and_p, p.reduce_or_p}
_REDUCTIONS |= {p.argmax_p, p.argmin_p, p.reduce_p, p.reduce_xor_p}


def _size(aval) -> int:
    return math.prod(aval.shape)


def cost(equation: Equation) -> float:
    """FLOPs of one evaluation.

    A contraction counts two per multiply-add, an elementwise operation one per element, a transcendental
    function 8 and a random word 32; moving data is free. A loop of unknown length counts once, a conditional
    by its dearest branch.
    """
    primitive, outputs = equation.primitive, sum(map(_size, equation.out_avals))
    if primitive is p.dot_general_p:
        (contracted, _), _ = equation.params["dimension_numbers"]
        return 2.0 * outputs * math.prod(equation.in_avals[0].shape[i] for i in contracted)
    if primitive is p.conv_general_dilated_p:
        kernel = equation.in_avals[1]
        features = kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
        return 2.0 * outputs * _size(kernel) / features
    bodies = [sum(map(cost, body.equations)) for body in subprograms(equation)]
    if bodies:
        if primitive is p.cond_p:
            return max(bodies)
        return sum(bodies) * equation.params.get("length", 1)
    if primitive in _FREE:
        return 0.0
    if primitive in _TRANSCENDENTAL:
        return 8.0 * outputs
    if primitive in _RANDOM:
        return 32.0 * outputs
    if primitive in _REDUCTIONS:
        return float(sum(map(_size, equation.in_avals)))
    return float(outputs)


def forward_cost(program: Program, outputs: Sequence[int | Literal]) -> float:
    """FLOPs of computing `outputs`."""
    return sum(map(cost, program.needed(outputs)))
