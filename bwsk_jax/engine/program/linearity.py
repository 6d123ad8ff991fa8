"""Which equations are linear in some of the values that they read."""

from __future__ import annotations

from collections.abc import Collection

from jax import lax
from jax.extend.core import Literal
from jax.extend.core import primitives as p

from bwsk_jax.engine.program.hoisting import MOVES
from bwsk_jax.engine.program.jaxprs import Equation, literal_value, present
from bwsk_jax.engine.program.types import is_differentiable

__all__ = ["is_linear"]

_LINEAR = (MOVES - {p.bitcast_convert_type_p, lax.optimization_barrier_p}) | {
    *(p.add_p, p.add_jaxvals_p, p.sub_p, p.neg_p, p.select_n_p, p.scatter_p, p.scatter_add_p),
    *(p.reduce_sum_p, p.cumsum_p, p.reduce_window_sum_p, p.select_and_scatter_add_p, p.fft_p),
    *(p.psum_p, p.all_gather_p, p.ppermute_p),
    *present("psum_invariant_p", "all_gather_invariant_p", "all_to_all_p", "reduce_scatter_p"),
}
"""In all floats that they read."""

_WITH_BODIES = {p.scan_p, p.cond_p, p.while_p}
"""Linear unless a user's rule is in it that is not."""

_IN_ONE = {p.mul_p, p.dot_general_p, p.conv_general_dilated_p}
"""In each of two floats, but not in both."""

_IN_PLACE = {p.div_p: 0, p.triangular_solve_p: 1}
"""In the operand at this place."""


def is_linear(equation: Equation, varying: Collection[int]) -> bool:
    """Whether what an equation gives is a linear function of those of its operands that are in `varying`.

    If in doubt it is not. Nothing is linear in integers, or gives integers that are.
    """
    places = [k for k, v in enumerate(equation.inputs) if not isinstance(v, Literal) and v in varying]
    types = [*(equation.in_avals[k] for k in places), *equation.out_avals]
    if not all(map(is_differentiable, types)):
        return False
    if equation.primitive in _IN_ONE:
        return len(places) <= 1
    if equation.primitive in _IN_PLACE:
        return set(places) <= {_IN_PLACE[equation.primitive]}
    if equation.primitive in _WITH_BODIES:
        return True
    operands = zip(equation.inputs, equation.in_avals, strict=True)
    others = (v for k, (v, aval) in enumerate(operands) if k not in places and is_differentiable(aval))
    return equation.primitive in _LINEAR and all(literal_value(v) == 0 for v in others)
