"""The S/K table: which operands of a primitive can be solved for, and how exactly.

An entry of `INVERSES` maps a primitive object to a function of one equation that lists its inverses. A
primitive without an entry erases (K): it can be replayed, never inverted.

How far an inverse can be trusted is one of five grades, from the arithmetic it uses:

======== ===================================================================================================
EXACT     bit for bit (shapes, integers, widening casts)
RELATIVE  to rounding, relative to each element (products with what cannot be 0)
ROUNDED   to the rounding of its operands, unless they cancel (sums)
GUARDED   only where the data allow it (division by data, the logarithm of what may be 0): needs a guard
NARROWED  to the precision of a narrower type (the inverse of a narrowing cast)
======== ===================================================================================================

Rounding of recovered values is estimated to first order, as in the running error analysis of N. J. Higham,
*Accuracy and Stability of Numerical Algorithms*, 2nd ed., §3.3; see `execute/guard.py`.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Literal, Primitive
from jax.extend.core import primitives as p

from bwsk_jax.engine.program.jaxprs import Equation, literal_value, present, source_of, source_of_function
from bwsk_jax.engine.program.types import is_differentiable, is_real
from bwsk_jax.engine.rules.intervals import ANY, Interval

__all__ = ["INVERSES", "Grade", "Inverse", "inverses_of", "is_registered", "register_inverse", "solvable"]


class Grade(enum.Enum):
    """How far the result of an inverse can be trusted."""

    EXACT = "exact"
    RELATIVE = "relative"
    ROUNDED = "rounded"
    GUARDED = "guarded"
    NARROWED = "narrowed"


@dataclasses.dataclass(frozen=True, eq=False)
class Inverse:
    """Solve an equation for `operand`.

    `solve(operands, outputs)` returns it, given the outputs and the operands numbered in `reads` (all others
    unless told; the places of the rest hold None). `amplification` is the factor by which a constant in the
    equation multiplies absolute error on the way back. `condition` says where a `GUARDED` inverse holds.
    """

    operand: int
    solve: Callable[[Sequence[Any], Sequence[Any]], Any]
    grade: Grade
    amplification: float = 1.0
    reads: tuple[int, ...] | None = None
    condition: str = ""


IntervalOf = Callable[[int | Literal], Interval]


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
        if solvable(equation, 0) and _is_finite(equation.inputs[1]):
            yield Inverse(0, lambda ins, outs: solve_first(outs[0], ins[1]), grade)
        if solvable(equation, 1) and _is_finite(equation.inputs[0]):
            yield Inverse(1, lambda ins, outs: solve_second(outs[0], ins[0]), grade)

    return entry


def _is_finite(atom) -> bool:
    """Whether nothing says that the value is infinite or no number."""
    constant = literal_value(atom)
    return constant is None or math.isfinite(constant)


def _scales(constant: float, dtype) -> bool:
    """Whether a constant can be divided by: what is below the normal numbers may be taken for 0."""
    return math.isfinite(constant) and abs(constant) >= float(jnp.finfo(dtype).tiny)


def _mul(equation, interval_of):
    if not is_differentiable(equation.out_avals[0]):
        return
    for operand in (0, 1):
        other = equation.inputs[1 - operand]
        if not solvable(equation, operand):
            continue
        solve = lambda ins, outs, other=1 - operand: lax.div(outs[0], ins[other])
        constant = literal_value(other)
        if constant is None:
            grade = Grade.RELATIVE if interval_of(other).divides else Grade.GUARDED
            yield Inverse(operand, solve, grade, condition="the other factor is not 0")
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
            yield Inverse(0, lambda ins, outs: solve(outs[0]), grade, condition=condition)

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


def inverses_of(equation: Equation, interval_of: IntervalOf = lambda _: ANY) -> list[Inverse]:
    """The inverses that the table, or else the user, has for this equation; a literal needs none."""
    entry = INVERSES.get(equation.primitive)
    found = [] if entry is None else list(entry(equation, interval_of))
    own = [rule(equation) for rule in _REGISTERED.get(identity(equation), {}).values()]
    found += [i for i in own if equation.inputs.count(equation.inputs[i.operand]) == 1]
    return [i for i in found if not isinstance(equation.inputs[i.operand], Literal)]


# --- the user's own ----------------------------------------------------------------------------------------

_OF_JAX = {*INVERSES, *(value for value in vars(p).values() if isinstance(value, Primitive))}
_REGISTERED: dict[Any, dict[int, Callable[[Equation], Inverse]]] = {}


def identity(equation: Any) -> Any:
    """What a user's rule is registered under: the function of a call with a custom derivative, else the
    primitive."""
    return source_of(equation) or equation.primitive


def is_registered(equation: Any) -> bool:
    """Whether a user has a rule for the equation."""
    return identity(equation) in _REGISTERED


def register_inverse(
    target: Any,
    solve: Callable[[Sequence[Any], Sequence[Any]], Any],
    *,
    operand: int = 0,
    grade: Grade | str = Grade.GUARDED,
    amplification: float = 1.0,
    condition: str = "",
) -> None:
    """Say how your own primitive, or your function with a custom derivative, is solved for an operand.

    `classify` uses it for both, `reversible` and `reversible_scan` for primitives: of a function with a
    custom derivative they see what its forward rule is made of. Such a function is known by where it was
    defined: those that one definition makes, such as closures over different constants, share their rules.
    A second rule for the same operand takes the place of the first.

    Args:
      target: a `jax.extend.core.Primitive`, or what `jax.custom_vjp` or `jax.custom_jvp` returned.
      solve: `solve(operands, outputs)` returns the operand; `operands[operand]` is None.
      operand: its place among the primitive's operands, or among the leaves of the function's arguments.
      grade: how far the result can be trusted, "exact", "relative", "rounded", "guarded" or "narrowed". If in
        doubt "guarded", the default: then it runs only where its error, estimated to first order, is small.
      amplification: by what factor it multiplies an absolute error of the output.
      condition: where it holds, in words, for the report.

    Raises:
      ValueError: `target` is one of JAX's own primitives, or a value is out of range. Where the rule is used:
        a call has no such operand, or `solve` gives another type than the operand's.
      TypeError: `target` is neither a primitive nor has a custom derivative, or `solve` is no function.

    >>> import bwsk_jax, jax
    >>> @jax.custom_vjp
    ... def double(x):
    ...     return 2 * x
    >>> double.defvjp(lambda x: (2 * x, None), lambda _, cotangent: (2 * cotangent,))
    >>> bwsk_jax.register_inverse(double, lambda operands, outputs: outputs[0] / 2, grade="relative")
    >>> [line.kind for line in bwsk_jax.classify(double, 1.0).lines]
    ['S']
    """
    if isinstance(target, Primitive) and target in _OF_JAX:
        raise ValueError(f"{target} is JAX's own: register your own primitives and functions")
    key = target if isinstance(target, Primitive) else source_of_function(target)
    grade = Grade(grade)
    if not callable(solve):
        raise TypeError(f"solve is {solve!r}, and has to be a function of operands and outputs")
    if operator.index(operand) < 0:
        raise ValueError(f"operand is {operand}, and has to be a place from 0")
    if not 0 < amplification < math.inf:
        raise ValueError(f"amplification is {amplification}, and has to be positive and finite")

    def rule(equation):
        first = equation.params.get("num_consts", 0) if source_of(equation) else 0
        place, count = first + operand, len(equation.inputs) - first
        if operand >= count:
            raise ValueError(f"{key} has a rule for operand {operand}, and is called with {count}")

        def own(ins, outs):
            found, aval = solve(ins[first:], outs), equation.in_avals[place]
            type_of = lambda aval: (aval.shape, aval.dtype)
            if type_of(jax.typeof(found)) != type_of(aval):
                raise ValueError(
                    f"the rule of {key} gave {jax.typeof(found)} for operand {operand}, which is {aval}"
                )
            return found

        return Inverse(place, own, grade, amplification, condition=condition)

    _REGISTERED.setdefault(key, {})[operand] = rule
