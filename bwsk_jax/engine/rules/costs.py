"""What an equation costs to run, in FLOPs or by the prices of a device, and what it costs to invert.

A replay runs where its result is read, and XLA fuses the two. But a reduction has read all of its operand
before anything reads what it gives, so that the operand goes through memory once more; and so do matrices
that are multiplied, which takes longer than the FLOPs of narrow ones. What devices have to send each other
they send again, over links that are slow beside all else. What an inverse gives stands between iterations or
between products: it is written to memory and read again. A guard reads what it judges several times.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from jax.extend.core import Literal
from jax.extend.core import primitives as p

from bwsk_jax.engine.program.hoisting import MOVES
from bwsk_jax.engine.program.jaxprs import Equation, Program, present, subprograms
from bwsk_jax.engine.program.types import nbytes, size
from bwsk_jax.engine.rules.devices import FLOPS, Prices
from bwsk_jax.engine.rules.exactness import Grade

__all__ = ["cost", "forward_cost", "inversion_cost"]

_TRANSCENDENTAL = {
    *(p.exp_p, p.exp2_p, p.log_p, p.log1p_p, p.expm1_p, p.tanh_p, p.logistic_p, p.pow_p, p.sin_p, p.cos_p),
    *(p.tan_p, p.asin_p, p.acos_p, p.atan_p, p.atan2_p, p.sinh_p, p.cosh_p, p.asinh_p, p.acosh_p, p.atanh_p),
    *(p.sqrt_p, p.rsqrt_p, p.cbrt_p, p.erf_p, p.erfc_p, p.erf_inv_p, p.lgamma_p, p.digamma_p),
    *present("log2_p"),
}
_RANDOM = {p.random_bits_p, p.threefry2x32_p, p.rng_bit_generator_p}
_REDUCTIONS = {p.reduce_sum_p, p.reduce_max_p, p.reduce_min_p, p.reduce_prod_p, p.reduce_and_p, p.reduce_or_p}
_REDUCTIONS |= {p.argmax_p, p.argmin_p, p.reduce_p, p.reduce_xor_p}
_RAGGED = set(present("ragged_dot_general_p"))
_PRODUCTS = {p.dot_general_p, p.conv_general_dilated_p, *_RAGGED}
_MESSAGES = {p.psum_p, p.all_gather_p, p.ppermute_p}
_MESSAGES |= {*present("psum_invariant_p", "all_gather_invariant_p", "all_to_all_p", "reduce_scatter_p")}


def cost(equation: Equation, prices: Prices = FLOPS) -> float:
    """FLOPs of one evaluation; by the prices of a device, FLOPs of products that take as long.

    A contraction counts two per multiply-add, an elementwise operation one per element, a transcendental
    function 8 and a random word 32; moving data is free. By the prices of a device that moves bytes more
    slowly than it computes, a product takes at least as long as its operands and result do to move, and a
    reduction as long as its operands. A loop of unknown length counts once, a conditional by its dearest
    branch.
    """
    bodies = [sum(cost(e, prices) for e in body.equations) for body in subprograms(equation)]
    if bodies:
        if equation.primitive is p.cond_p:
            return max(bodies)
        return sum(bodies) * equation.params.get("length", 1)
    sent = sum(map(nbytes, equation.out_avals)) if equation.primitive in _MESSAGES else 0
    each = prices.arithmetic if _is_depthwise(equation) else 1.0
    return max(each * _flops(equation), prices.moved_byte * _moved(equation)) + prices.sent_byte * sent


def _moved(equation: Equation) -> int:
    """Bytes that go through memory whatever the equation is fused with."""
    if equation.primitive in _PRODUCTS:
        return sum(map(nbytes, (*equation.in_avals, *equation.out_avals)))
    return sum(map(nbytes, equation.in_avals)) if equation.primitive in _REDUCTIONS else 0


def _is_depthwise(equation: Equation) -> bool:
    """Whether it is a convolution of each feature by itself."""
    if equation.primitive is not p.conv_general_dilated_p:
        return False
    summed = equation.in_avals[1].shape[equation.params["dimension_numbers"].rhs_spec[1]]
    return summed == 1 < equation.params["feature_group_count"]


def _flops(equation: Equation) -> float:
    primitive, outputs = equation.primitive, sum(map(size, equation.out_avals))
    if primitive is p.dot_general_p:
        (contracted, _), _ = equation.params["dimension_numbers"]
        return 2.0 * outputs * math.prod(equation.in_avals[0].shape[i] for i in contracted)
    if primitive in _RAGGED:
        return 2.0 * size(equation.in_avals[0]) * _columns(equation)
    if primitive is p.conv_general_dilated_p:
        kernel = equation.in_avals[1]
        features = kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
        return 2.0 * outputs * size(kernel) / features
    if primitive in MOVES:
        return 0.0
    if primitive in _TRANSCENDENTAL:
        return 8.0 * outputs
    if primitive in _RANDOM:
        return 32.0 * outputs
    if primitive in _REDUCTIONS:
        return float(sum(map(size, equation.in_avals)))
    return float(outputs)


_PASSES = {Grade.EXACT: 0, Grade.GUARDED: 16}
_USUAL_PASSES = 8
"""How often what an inverse gives moves through memory.

It goes out and in, and so does what XLA would have fused with it. In a RevNet and a leapfrog for a TPU v5e
two passes would explain a fifth of the cycles that its compiler estimates for inverses.
"""


def inversion_cost(equation: Equation, operand: int, grade: Grade, prices: Prices) -> float:
    """That of one inversion, with its traffic."""
    moved = _PASSES.get(grade, _USUAL_PASSES) * nbytes(equation.in_avals[operand])
    return cost(equation, prices) + prices.moved_byte * moved


def _columns(equation: Equation) -> int:
    """Of each group's matrix, with which the elements of the first operand are multiplied one by one."""
    numbers = equation.params["ragged_dot_dimension_numbers"]
    (_, contracted), (_, batched) = numbers.dot_dimension_numbers
    taken = (*contracted, *batched, *numbers.rhs_group_dimensions)
    return math.prod(n for axis, n in enumerate(equation.in_avals[1].shape) if axis not in taken)


def forward_cost(program: Program, outputs: Sequence[int | Literal], prices: Prices = FLOPS) -> float:
    """That of computing `outputs`."""
    return sum(cost(equation, prices) for equation in program.needed(outputs))
