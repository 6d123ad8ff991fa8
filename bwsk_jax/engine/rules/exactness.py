"""How exact a recovered value is, and what it may be used for.

An inverse that rounds gives back its operand with a small error. Whoever plans has to know three things: what
error an inverse *brings in*, which equations must *read exactly*, and what *carries* an error on from one
value to the next. This file is the one place that says so; problems hold its answers, schedules propagate
them and the integer program writes them as constraints.

There are three kinds of inexactness, the members of `Taint`. An equation that reads an inexact value usually
hands the error on as it is. Some equations turn it into something else altogether: a comparison flips, and a
division by almost 0 explodes. Those must not read such a value, and nor must a backward pass that contains
them: what they give is saved, a comparison's mask as bits.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.extend.core import Literal
from jax.extend.core import primitives as p

from bwsk_jax.engine.program.jaxprs import Equation, Program, literal_value, present, subprograms
from bwsk_jax.engine.program.types import digits, is_differentiable
from bwsk_jax.engine.program.vjp import VjpTrace
from bwsk_jax.engine.rules.intervals import ANY, Interval, IntervalOf, bounds_of

__all__ = [
    "Grade",
    "Taint",
    "carriers",
    "division",
    "exact_reads",
    "exact_reads_back",
    "exact_residuals",
    "is_narrow",
    "shown_digits",
    "stops_derivatives",
]


class Taint(enum.Enum):
    """A way in which a recovered value differs from what the forward pass computed.

    ============= ========================================================================================
    INEXACT        it is not the same bit for bit
    UNMIXED        the same, and no sum over many elements lies between it and the inverse that rounded: an
                   exact 0 of the forward pass has come back as almost 0
    LOW_PRECISION  it is right only to the precision of a type that is narrower than its own
    ============= ========================================================================================
    """

    INEXACT = "inexact"
    UNMIXED = "unmixed"
    LOW_PRECISION = "low precision"


class Grade(enum.Enum):
    """How far the result of an inverse can be trusted, by the arithmetic that it uses.

    ======== ===============================================================================================
    EXACT     bit for bit (shapes, integers, widening casts)
    RELATIVE  to rounding, relative to each element (products with what cannot be 0)
    ROUNDED   to the rounding of its operands, unless they cancel (sums), or one is tiny (products with what
              is never 0 in exact arithmetic)
    GUARDED   only where the data allow it (division by data, the logarithm of what may be 0): needs a guard
    NARROWED  to the precision of a narrower type (the inverse of a narrowing cast)
    ======== ===============================================================================================
    """

    EXACT = "exact"
    RELATIVE = "relative"
    ROUNDED = "rounded"
    GUARDED = "guarded"
    NARROWED = "narrowed"

    @property
    def brings_in(self) -> frozenset[Taint]:
        """The inexactness that the result has even where all operands are exact."""
        return _BROUGHT_IN[self]


_BROUGHT_IN = {
    Grade.EXACT: frozenset[Taint](),
    Grade.RELATIVE: frozenset({Taint.INEXACT, Taint.UNMIXED}),
    Grade.ROUNDED: frozenset({Taint.INEXACT, Taint.UNMIXED}),
    Grade.GUARDED: frozenset({Taint.INEXACT, Taint.UNMIXED}),
    Grade.NARROWED: frozenset(Taint),
}


PASSES = 0.8
"""What a gate that can be inverted usually passes: `sigmoid(s + 2)` does, a forget gate does not."""
CLOSED = 2.0**-12
"""A gate that passes no more leaves less than half of the digits of a float32, beside what is added to it."""


def division(factor: Interval) -> tuple[Grade, float]:
    """How far a division by a factor within these bounds undoes a multiplication, and by how much it usually
    multiplies an error.

    A factor that is never 0 in exact arithmetic, such as `exp(s)`, may be so small that the product is lost
    beside what is added to it, and may even underflow to 0. The division is `ROUNDED` then, as is the inverse
    of a sum, which loses a small term beside a large one: a guard watches it where there is another way, and
    where there is none, a scan checks what it ends with. A division by 0 gives nothing finite.

    A gate, which is never above 1, is made to forget. For some elements it is nearly 0, unless it usually
    passes nearly everything. One that is kept from 0 may be `CLOSED` all the same.
    """
    usual = abs(factor.typical)
    is_gate = factor.low >= -1 and factor.high <= 1
    if factor.divides:
        hopeless = is_gate and min(abs(factor.low), abs(factor.high)) < CLOSED
    else:
        hopeless = (is_gate and usual < PASSES) or not factor.nonzero or not usual
    if hopeless:
        return Grade.GUARDED, 1.0
    tells = factor.low < factor.typical < factor.high  # and was not cut off at a bound
    return Grade.RELATIVE if factor.divides else Grade.ROUNDED, 1 / usual if tells and 0 < usual < 1 else 1.0


# --- equations ---------------------------------------------------------------------------------------------

LIPSCHITZ = {
    *(p.add_p, p.add_jaxvals_p, p.sub_p, p.mul_p, p.neg_p, p.square_p, p.abs_p, p.max_p, p.min_p, p.clamp_p),
    *(p.exp_p, p.exp2_p, p.expm1_p, p.tanh_p, p.logistic_p, p.erf_p, p.erfc_p, p.sin_p, p.cos_p, p.sinh_p),
    *(p.cosh_p, p.asinh_p, p.atan_p, p.select_n_p, p.real_p, p.imag_p, p.complex_p, p.conj_p),
    *(p.reshape_p, p.squeeze_p, p.broadcast_in_dim_p, p.transpose_p, p.rev_p, p.slice_p, p.concatenate_p),
    *(p.pad_p, p.copy_p, p.stop_gradient_p, p.name_p, lax.split_p, lax.optimization_barrier_p),
    *(lax.stack_p, lax.unstack_p, lax.tile_p),
    *(p.gather_p, p.dynamic_slice_p, p.dynamic_update_slice_p, p.scatter_p, p.scatter_add_p, p.scatter_mul_p),
    *(p.reduce_sum_p, p.reduce_max_p, p.reduce_min_p, p.reduce_prod_p, p.cumsum_p, p.cummax_p, p.cummin_p),
    *(p.dot_general_p, p.conv_general_dilated_p, p.reduce_window_sum_p, p.reduce_window_max_p, p.fft_p),
    *(p.reduce_window_min_p, p.psum_p, p.all_gather_p, p.ppermute_p),
    *present("one_minus_square_p", "pvary_p", "psum_invariant_p", "all_gather_invariant_p"),
    *present("all_to_all_p", "reduce_scatter_p"),
    p.is_finite_p,
}
"""Primitives whose result changes by about a rounding error when an operand does, on bounded inputs.

All other primitives might compare, or jump, or have a singularity near which a small absolute error is a
large relative one. (`max` itself is harmless: the comparison in its derivative is an equation of its own.)"""

CLEAR = 1e-2
"""How far bounds have to keep a value from a singularity: much further than rounding moves any value."""
CLEAR_WHEN_MIXED = 1e-7
"""How far they have to keep a sum of many elements, which is near only if it is of a region of exact zeros.
There a normalisation that adds 1e-6 to a variance multiplies rounding by 1,000, one that adds 1e-12 by a
million."""

Near = Callable[[Sequence[Interval], float], bool]
"""Whether operands within such bounds may come so near to a singularity."""


def _below(point: float) -> Near:
    """Whether the first operand may come near to `point`, or lie below it."""
    return lambda operands, distance: not operands[0].low >= point + distance


def _outside_one(operands: Sequence[Interval], distance: float) -> bool:
    """Whether the first operand may come near to -1 or 1, or lie beyond them."""
    return not (operands[0].low >= distance - 1 and operands[0].high <= 1 - distance)


def _near_zero(place: int) -> Near:
    """Whether the operand at this place may come near to 0."""
    return lambda operands, distance: (
        not (operands[place].low >= distance or operands[place].high <= -distance)
    )


def _always(operands: Sequence[Interval], distance: float) -> bool:
    return True


SINGULAR: dict[Any, Near] = {
    p.div_p: _near_zero(1),
    p.integer_pow_p: _near_zero(0),
    **dict.fromkeys((p.sqrt_p, p.rsqrt_p, p.log_p, p.pow_p, *present("log2_p")), _below(0.0)),
    **dict.fromkeys((p.lgamma_p, p.digamma_p), _below(0.0)),
    p.cbrt_p: _near_zero(0),
    p.log1p_p: _below(-1.0),
    p.acosh_p: _below(1.0),
    **dict.fromkeys((p.asin_p, p.acos_p, p.atanh_p, p.erf_inv_p), _outside_one),
    p.tan_p: _always,
}
"""Primitives that are continuous, but have a singularity; whether operands within such bounds may come near.

They may read what is inexact only away from it: they would find an almost 0 where the forward pass had an
exact one. Every other primitive that is not in `LIPSCHITZ` reads exactly: it compares or jumps, and a tie
that rounding tips over is a wrong gradient wherever it comes from, a black frame or a padded row."""

COMPARISONS = {p.eq_p, p.ne_p, p.lt_p, p.le_p, p.gt_p, p.ge_p}

MIXING = {
    *(p.dot_general_p, p.conv_general_dilated_p, p.reduce_sum_p, p.reduce_window_sum_p, p.cumsum_p, p.fft_p),
    *(p.scan_p, p.while_p, p.reduce_prod_p, p.triangular_solve_p),
}
"""Primitives of which each result depends on many elements of an operand.

That such a result is near a singularity is an accident, in the forward pass as well, unless it is exactly 0:
a row of zeros gives a 0, whatever it is multiplied by."""


def exact_reads(taint: Taint, equation: Equation, interval_of: IntervalOf = lambda _: ANY) -> tuple[int, ...]:
    """The values that the equation, run forward, must not read with this kind of inexactness."""
    if _is_harmless(taint, equation, interval_of):
        return ()
    inputs = equation.inputs
    if equation.primitive is p.div_p and not interval_of(inputs[1]).divides:
        inputs = inputs[1:]  # but what is kept from 0, as `max(norm, 1e-12)` is, has numerators of 0
    avals = equation.in_avals[-len(inputs) :]
    return tuple(
        v
        for v, aval in zip(inputs, avals, strict=True)
        if not isinstance(v, Literal) and is_differentiable(aval)
    )


def exact_reads_back(reads: Iterable[int], writes: Iterable[int], avals: Sequence[Any]) -> tuple[int, ...]:
    """The values that an inverse must not read with any inexactness; `avals` are the types of all values.

    A float may be almost right, a boolean or an integer may not: 1e-8 is true, and 2.9999998 is 2.
    """
    if any(is_differentiable(avals[v]) for v in writes):
        return ()
    return tuple(v for v in reads if is_differentiable(avals[v]))


def _is_harmless(taint: Taint, equation: Equation, interval_of: IntervalOf) -> bool:
    """Whether a small error of what the equation reads is a small error of what it gives."""
    primitive = equation.primitive
    if primitive in LIPSCHITZ:
        return True
    if primitive is p.integer_pow_p and equation.params["y"] > 0:
        return True
    if primitive is p.convert_element_type_p:
        return is_differentiable(equation.out_avals[0])
    if primitive in COMPARISONS:
        return _is_about_finiteness(equation)
    if primitive in SINGULAR:
        distance = CLEAR_WHEN_MIXED if taint is Taint.INEXACT else CLEAR
        return not SINGULAR[primitive]([interval_of(v) for v in equation.inputs], distance)
    bodies = list(subprograms(equation))
    return bool(bodies) and all(_body_is_harmless(taint, body) for body in bodies)


def _is_about_finiteness(equation: Equation) -> bool:
    """Whether it compares a value with itself or with infinity: no rounding changes what comes of that."""
    same = len(equation.reads) == 2 and len(set(equation.reads)) == 1
    constants = (literal_value(v) for v in equation.inputs)
    return same or any(constant is not None and math.isinf(constant) for constant in constants)


def _body_is_harmless(taint: Taint, body: Program) -> bool:
    bounds = bounds_of(body)
    return all(_is_harmless(taint, equation, bounds.of) for equation in body.equations)


def carriers(
    taint: Taint,
    equation: Equation,
    reads: Iterable[int],
    result: int,
    avals: Sequence[Any],
    *,
    inverts: bool,
) -> list[int]:
    """Those of `reads` whose inexactness reaches `result`, where the equation is run forward or inverted.

    `UNMIXED` ends where a replay mixes many elements, `LOW_PRECISION` where the value returns to a narrower
    type, and `INEXACT` nowhere. None reaches, or comes from, what is no float. `avals` are the types of all
    values.
    """
    if not is_differentiable(avals[result]):
        return []
    floats = [v for v in reads if is_differentiable(avals[v])]
    if taint is Taint.LOW_PRECISION:
        width = avals[result].dtype.itemsize
        return [v for v in floats if avals[v].dtype.itemsize <= width]
    ends = taint is Taint.UNMIXED and not inverts and equation.primitive in MIXING
    return [] if ends else floats


# --- what a backward pass asks for -------------------------------------------------------------------------


def exact_residuals(taint: Taint, trace: VjpTrace, interval_of: IntervalOf) -> frozenset[int]:
    """The residuals that the backward pass, whose values have these bounds, must not read with this kind of
    inexactness.
    """
    pullback = trace.traced_pullback
    exact: set[int] = set()
    for equation in reversed(pullback.equations):
        exact.update(exact_reads(taint, equation, interval_of))
        for result in exact.intersection(equation.outputs):
            exact.update(carriers(taint, equation, equation.reads, result, pullback.avals, inverts=False))
    named = zip(trace.residuals, pullback.inputs, strict=False)
    return frozenset(v for v, inner in named if inner in exact and not isinstance(v, Literal))


def is_narrow(aval: Any) -> bool:
    """Whether a type is a float narrower than float32.

    What is recovered in such a type must be exact: another rounding there would add about half again to the
    error that the computation has anyway.
    """
    return 0 < digits(aval) < jnp.finfo(jnp.float32).nmant


def shown_digits(trace: VjpTrace, carry_in: Iterable[int]) -> dict[int, int]:
    """For each value, how many binary digits of it an output, or the carry that is handed on, can show.

    This is the widest path to an output: the largest, over all paths, of the smallest precision on the path.
    A value of which more digits are shown than a narrow type has must not come back from a cast to that type.
    """
    program = trace.program
    outputs = [v for v in trace.outputs if not isinstance(v, Literal)]
    shown = dict.fromkeys(range(len(program.avals)), 0)
    shown.update((v, digits(program.avals[v])) for v in (*outputs, *carry_in))
    for equation in reversed(program.equations):
        most = max((shown[v] for v in equation.outputs), default=0)
        for v in equation.reads:
            shown[v] = max(shown[v], min(most, digits(program.avals[v])))
    return shown


def stops_derivatives(equation: Equation) -> bool:
    """Whether a float goes in, and what comes out has no derivative with respect to it.

    What an inverse makes of that has none either, which a second derivative would miss.
    """
    floats = any(map(is_differentiable, equation.in_avals))
    return equation.primitive is p.stop_gradient_p or (
        floats and not any(map(is_differentiable, equation.out_avals))
    )
