"""What a value that an inverse has rounded may be used for.

A recovered value can differ in its last bits from what the forward pass computed. Most equations hand that on
as it is; some turn it into something else altogether: a comparison flips, a division by almost 0 explodes.
"""

from __future__ import annotations

from jax import lax
from jax.extend.core import Literal
from jax.extend.core import primitives as p

from bwsk_jax.engine.program.jaxprs import Equation, present, subprograms
from bwsk_jax.engine.program.types import is_differentiable

__all__ = ["LIPSCHITZ", "mixes", "sensitive_inputs"]

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
    if primitive is p.convert_element_type_p and is_differentiable(equation.out_avals[0]):
        return ()
    if primitive in LIPSCHITZ:
        return ()
    bodies = list(subprograms(equation))
    if bodies and not any(sensitive_inputs(inner) for body in bodies for inner in body.equations):
        return ()
    return tuple(v for v, a in zip(equation.inputs, equation.in_avals, strict=True) if _reads_float(v, a))


def _reads_float(value, aval) -> bool:
    return not isinstance(value, Literal) and is_differentiable(aval)


MIXING = {
    *(p.dot_general_p, p.conv_general_dilated_p, p.reduce_sum_p, p.reduce_window_sum_p, p.cumsum_p, p.fft_p),
    *(p.scan_p, p.while_p, p.reduce_prod_p, p.triangular_solve_p),
}


def mixes(equation: Equation) -> bool:
    """Whether each result depends on many operand elements.

    A tie or a singularity that rounding could tip over is then an accident in the forward pass as well, and
    the result counts as untouched. (A known flaw: a row of exact zeros ties whatever it is multiplied by.)
    """
    return equation.primitive in MIXING
