"""The table of what erases, and why.

A primitive erases if there are two operands with one result. `ERASES` names the reason in words, and the
tests hold two such operands for each entry. A primitive that is neither here nor among the inverses has no
rule: it is said to erase for want of one.
"""

from __future__ import annotations

from typing import Any

from jax import lax
from jax.extend.core import primitives as p

from bwsk_jax.engine.program.jaxprs import Equation, present
from bwsk_jax.engine.program.types import is_differentiable

__all__ = ["ERASES", "why_erased"]


def _each(why: str, *primitives: Any) -> dict[Any, str]:
    """One reason for several primitives."""
    return dict.fromkeys(primitives, why)


ERASES: dict[Any, str] = {
    # where the inverse that exists does not apply
    p.add_p: "x + inf is inf, and integers wrap",
    p.sub_p: "x - x is 0, and x - inf is -inf",
    p.mul_p: "x and -x have one square, a factor of 0 leaves nothing, and integers wrap",
    p.div_p: "x / x is 1, 0 / x is 0, and integers are cut",
    p.integer_pow_p: "x and -x have one even power, and complex numbers several roots",
    p.xor_p: "x xor x is 0",
    p.convert_element_type_p: "the narrower type cannot tell them apart",
    p.pad_p: "negative padding cuts off, and what is padded with may be used nowhere",
    p.broadcast_in_dim_p: "nothing is left",
    lax.tile_p: "nothing is left",
    p.dynamic_update_slice_p: "what was there is overwritten",
    p.ppermute_p: "what is sent to nobody is dropped",
    p.dot_general_p: "a projection to fewer dimensions",
    p.conv_general_dilated_p: "windows overlap or leave gaps, or are mapped to fewer dimensions",
    **_each("rows beyond all groups become 0", *present("ragged_dot_general_p")),
    p.fft_p: "the imaginary part of a real signal's ends is dropped",
    **_each("what is added to one place is summed", p.scatter_add_p, lax.scatter_sub_p),
    p.scatter_mul_p: "a factor of 0 leaves nothing, and integers wrap",
    p.triangular_solve_p: "only a triangle is read, and many have one solution",
    **_each("many matrices have one solution", lax.linear_solve_p, p.tridiagonal_solve_p),
    p.svd_p: "only singular values are left",
    p.eig_p: "only eigenvalues, or left eigenvectors, are left",
    p.schur_p: "the vectors are dropped",
    p.cumprod_p: "integers wrap",
    **_each("x and -x give the same", *present("one_minus_square_p")),
    # elementwise
    p.atan2_p: "only the angle is kept",
    **_each("x and -x give the same", p.abs_p, p.square_p, p.cosh_p, p.bessel_i0e_p),
    **_each("periodic", p.sin_p, p.cos_p, p.tan_p),
    **_each("not monotone", p.lgamma_p, p.digamma_p, p.polygamma_p, p.bessel_i1e_p, p.igamma_grad_a_p),
    **_each("a polynomial may take a value more than once", *present("polynomial_p")),
    **_each("constant beyond the digits of its limit", p.igamma_p, p.igammac_p, p.zeta_p),
    p.regularized_incomplete_beta_p: "constant beyond the digits of its limit",
    p.pow_p: "x and -x have one even power, and every power of 1 is 1",
    **_each("fractions are dropped", p.floor_p, p.ceil_p, p.round_p),
    **_each("one of a few values is left", p.sign_p, p.is_finite_p),
    **_each("the other operand is dropped", p.max_p, p.min_p),
    p.clamp_p: "what is beyond a bound becomes the bound",
    p.rem_p: "the quotient is dropped",
    p.nextafter_p: "the step into an operand ends where the step from it ends",
    p.select_n_p: "what is not selected is dropped",
    **_each("only half of a complex number is kept", p.real_p, p.imag_p),
    **_each("one bit is left of a comparison", p.eq_p, p.ne_p, p.lt_p, p.le_p, p.gt_p, p.ge_p),
    **_each("one bit is left of a comparison", p.eq_to_p, p.le_to_p, p.lt_to_p),
    **_each("a bit decides alone", p.and_p, p.or_p),
    **_each("bits are counted, not kept", p.population_count_p, p.clz_p),
    **_each("bits are shifted out", p.shift_left_p, p.shift_right_logical_p, p.shift_right_arithmetic_p),
    lax.mulhi_p: "the low half of a product is dropped",
    # many to one
    **_each("many elements become one", p.reduce_sum_p, p.reduce_max_p, p.reduce_min_p, p.reduce_prod_p),
    **_each("many elements become one", p.reduce_and_p, p.reduce_or_p, p.reduce_xor_p, p.reduce_p),
    **_each("many elements become one", p.reduce_window_p, p.reduce_window_sum_p, p.reduce_window_max_p),
    **_each("many elements become one", p.reduce_window_min_p, p.select_and_gather_add_p),
    **_each("many devices' values become one", p.psum_p, p.pmax_p, p.pmin_p, *present("psum_invariant_p")),
    **_each("only a position is left", p.argmax_p, p.argmin_p),
    **_each("only the extremes so far are left", p.cummax_p, p.cummin_p),
    **_each("what is not read is dropped", p.slice_p, p.dynamic_slice_p),
    p.gather_p: "what is not read is dropped, and two places may hold the same",
    p.sort_p: "the order is dropped",
    **_each("all but the largest are dropped", p.top_k_p, p.approx_top_k_p),
    **_each("what was there is overwritten", p.scatter_p, p.scatter_min_p, p.scatter_max_p),
    **_each("what is not selected is dropped", p.select_and_scatter_p, p.select_and_scatter_add_p),
    # random numbers
    **_each("random bits do not give their key away", p.random_bits_p, p.random_gamma_p, p.rng_uniform_p),
    **_each("random bits do not give their key away", p.threefry2x32_p, p.rng_bit_generator_p),
}
"""Maps a primitive to the reason why it erases. Where an inverse exists as well, the reason is that of the
equations to which the inverse does not apply."""


def why_erased(equation: Equation) -> str:
    """Why an equation without an inverse loses information; "no rule" if its primitive is in no table."""
    if equation.primitive is p.dot_general_p and equation.inputs[0] == equation.inputs[1]:
        return "x and -x have one product with themselves"
    if equation.primitive is p.dot_general_p and not is_differentiable(equation.out_avals[0]):
        return "integers wrap"
    if equation.primitive in (p.random_fold_in_p, p.random_split_p):
        return "no way from random bits to their key is known"
    return ERASES.get(equation.primitive, "no rule")
