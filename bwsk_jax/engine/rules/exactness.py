"""How exact a recovered value is, and what it may be used for.

An inverse that rounds gives back its operand with a small error. Whoever plans has to know three things: what
error an inverse *brings in*, which equations must *read exactly*, and what *carries* an error on from one
value to the next. This file is the one place that says so; problems hold its answers, schedules propagate
them and the integer program writes them as constraints.

There are two kinds of inexactness, the members of `Taint`. An equation that reads an inexact value usually
hands the error on as it is. Some equations turn it into something else altogether: a comparison flips, and a
division by almost 0 explodes. Those read exactly, and so must a backward pass that contains them.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.extend.core import Literal
from jax.extend.core import primitives as p

from bwsk_jax.engine.program.jaxprs import Equation, Program, present, subprograms
from bwsk_jax.engine.program.types import digits, is_differentiable
from bwsk_jax.engine.program.vjp import VjpTrace

__all__ = ["Grade", "Taint", "carriers", "exact_reads", "exact_residuals", "fragile_carry", "shown_digits"]


class Taint(enum.Enum):
    """A way in which a recovered value differs from what the forward pass computed.

    ============= ========================================================================================
    INEXACT        it is not the same bit for bit
    LOW_PRECISION  it is right only to the precision of a type that is narrower than its own
    ============= ========================================================================================
    """

    INEXACT = "inexact"
    LOW_PRECISION = "low precision"


class Grade(enum.Enum):
    """How far the result of an inverse can be trusted, by the arithmetic that it uses.

    ======== ===============================================================================================
    EXACT     bit for bit (shapes, integers, widening casts)
    RELATIVE  to rounding, relative to each element (products with what cannot be 0)
    ROUNDED   to the rounding of its operands, unless they cancel (sums)
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
    Grade.RELATIVE: frozenset({Taint.INEXACT}),
    Grade.ROUNDED: frozenset({Taint.INEXACT}),
    Grade.GUARDED: frozenset({Taint.INEXACT}),
    Grade.NARROWED: frozenset({Taint.INEXACT, Taint.LOW_PRECISION}),
}


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
}
"""Primitives whose result changes by about a rounding error when an operand does, on bounded inputs.

All other primitives might compare, or jump, or have a singularity near which a small absolute error is a
large relative one. They are replayed only from exact values. (`max` itself is harmless: the comparison in its
derivative is an equation of its own.)"""

MIXING = {
    *(p.dot_general_p, p.conv_general_dilated_p, p.reduce_sum_p, p.reduce_window_sum_p, p.cumsum_p, p.fft_p),
    *(p.scan_p, p.while_p, p.reduce_prod_p, p.triangular_solve_p),
}
"""Primitives of which each result depends on many elements of an operand.

A tie or a singularity that rounding could tip over is then an accident in the forward pass as well, so the
result counts as exact. (A known flaw: a row of exact zeros ties, whatever it is multiplied by.)"""


def exact_reads(equation: Equation) -> tuple[int, ...]:
    """The values that the equation, run forward, must read exactly."""
    primitive = equation.primitive
    if primitive is p.div_p:
        return tuple(v for v in equation.inputs[1:] if not isinstance(v, Literal))
    if primitive is p.integer_pow_p and equation.params["y"] > 0:
        return ()
    if primitive is p.convert_element_type_p and is_differentiable(equation.out_avals[0]):
        return ()
    if primitive in LIPSCHITZ:
        return ()
    bodies = list(subprograms(equation))
    if bodies and not any(exact_reads(inner) for body in bodies for inner in body.equations):
        return ()
    return tuple(
        v
        for v, aval in zip(equation.inputs, equation.in_avals, strict=True)
        if not isinstance(v, Literal) and is_differentiable(aval)
    )


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

    `INEXACT` ends where a replay mixes many elements. `LOW_PRECISION` ends where the value returns to a
    narrower type. Neither reaches, or comes from, what is no float. `avals` are the types of all values.
    """
    if not is_differentiable(avals[result]):
        return []
    floats = [v for v in reads if is_differentiable(avals[v])]
    if taint is Taint.LOW_PRECISION:
        width = avals[result].dtype.itemsize
        return [v for v in floats if avals[v].dtype.itemsize <= width]
    return floats if inverts or equation.primitive not in MIXING else []


# --- what a backward pass asks for -------------------------------------------------------------------------


def exact_residuals(trace: VjpTrace) -> frozenset[int]:
    """The residuals that the backward pass compares, divides by or otherwise must read exactly."""
    pullback = trace.trace_pullback()
    exact: set[int] = set()
    for equation in reversed(pullback.equations):
        exact.update(exact_reads(equation))
        if exact.intersection(equation.outputs) and equation.primitive not in MIXING:
            exact.update(v for v in equation.reads if is_differentiable(pullback.avals[v]))
    named = zip(trace.residuals, pullback.inputs, strict=False)
    return frozenset(v for v, inner in named if inner in exact and not isinstance(v, Literal))


def fragile_carry(program: Program, carry_in: Iterable[int]) -> frozenset[int]:
    """The carried values that are narrower than float32: they must be recovered exactly.

    Rounding adds up from one recovered carry to the next, and below float32 that shows in the gradient.
    """
    return frozenset(v for v in carry_in if 0 < digits(program.avals[v]) < jnp.finfo(jnp.float32).nmant)


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
