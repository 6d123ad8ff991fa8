"""What a classification claims beyond the planner's inverses: dear inverses, and why the rest erases.

`DEAR` has the form of `rules.INVERSES`, for operands that can be solved for at a cost, or on a condition,
that no backward pass should pay: a pseudo-inverse, a factorisation multiplied out again. `ERASES` says how a
primitive loses information where neither table has an inverse of the equation at hand: two operands with one
result exist. A primitive in none of the three has no rule.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Literal
from jax.extend.core import primitives as p

from bwsk_jax.engine.program.jaxprs import literal_value, present
from bwsk_jax.engine.program.types import is_differentiable, is_real
from bwsk_jax.engine.rules.exactness import Grade
from bwsk_jax.engine.rules.inverses import Inverse, solvable

__all__ = ["DEAR", "ERASES", "REFERENCE_ERASES", "why_erased"]

_FULL_RANK = "the other operand has full rank; error grows with its condition number"


# --- contractions ------------------------------------------------------------------------------------------


def _dot_general(equation, interval_of):
    """The operand whose rows the other maps to at least as many dimensions: a pseudo-inverse."""
    (contracted, batched) = equation.params["dimension_numbers"]
    for operand in (0, 1):
        other = equation.in_avals[1 - operand].shape
        width = math.prod(other[axis] for axis in contracted[1 - operand])
        copies = math.prod(other[axis] for axis in batched[1 - operand])
        maps_to_fewer = math.prod(other) < copies * width**2
        if (
            width == 0
            or maps_to_fewer
            or isinstance(equation.inputs[operand], Literal)
            or not _invertible(equation)
        ):
            continue
        solve = lambda ins, outs, k=operand: _solve_contraction(equation, k, ins[1 - k], outs[0])
        yield Inverse(operand, solve, Grade.GUARDED, condition=_FULL_RANK)


def _invertible(equation) -> bool:
    """Whether a matrix of these numbers has a pseudo-inverse, and is not the other operand as well."""
    return all(map(is_differentiable, equation.in_avals)) and equation.inputs[0] != equation.inputs[1]


def _solve_contraction(equation, operand: int, other, out):
    """Solve `out = x other` for x, where the axes of each are sorted into batch, free and contracted ones."""
    contracted, batched = equation.params["dimension_numbers"]
    kept = lambda k: [
        axis
        for axis in range(len(equation.in_avals[k].shape))
        if axis not in contracted[k] and axis not in batched[k]
    ]
    aval = equation.in_avals[operand]
    sizes = lambda shape, axes: [shape[axis] for axis in axes]
    copies = sizes(aval.shape, batched[operand])
    order = (*batched[1 - operand], *contracted[1 - operand], *kept(1 - operand))
    width = math.prod(sizes(aval.shape, contracted[operand]))
    columns = math.prod(sizes(other.shape, kept(1 - operand)))
    matrix_bcf = lax.transpose(other, order).reshape(math.prod(copies), width, columns)
    rows = math.prod(sizes(aval.shape, kept(operand)))
    if operand == 0:
        out_brf = out.reshape(math.prod(copies), rows, columns)
    else:
        out_brf = jnp.swapaxes(out.reshape(math.prod(copies), columns, rows), 1, 2)
    dtype = jnp.promote_types(out.dtype, jnp.float32)
    solved_brc = out_brf.astype(dtype) @ jnp.linalg.pinv(matrix_bcf.astype(dtype))
    order = (*batched[operand], *kept(operand), *contracted[operand])
    solved = solved_brc.reshape(sizes(aval.shape, order))
    return lax.transpose(solved, np.argsort(order)).astype(aval.dtype)


def _convolution(equation, interval_of):
    """A window of one element is a product with a matrix: solvable as `dot_general` is."""
    params, (image, kernel) = equation.params, equation.in_avals
    numbers = params["dimension_numbers"]
    features_out, features_in = (kernel.shape[axis] for axis in numbers.rhs_spec[:2])
    pointwise = (
        math.prod(kernel.shape) == features_in * features_out
        and {*params["window_strides"], *params["lhs_dilation"]} <= {1}
        and not np.any(params["padding"])
        and params["feature_group_count"] == params["batch_group_count"] == 1
    )
    if not pointwise or features_out < features_in or not _invertible(equation):
        return

    def solve(ins, outs):
        matrix_oi = jnp.transpose(ins[1], numbers.rhs_spec).reshape(features_out, features_in)
        features_last = lambda spec: (spec[0], *spec[2:], spec[1])
        solved = jnp.transpose(outs[0], features_last(numbers.out_spec)) @ jnp.linalg.pinv(matrix_oi.T)
        return jnp.transpose(solved, np.argsort(features_last(numbers.lhs_spec))).astype(image.dtype)

    yield Inverse(0, solve, Grade.GUARDED, condition=_FULL_RANK)


# --- sums and products along an axis -----------------------------------------------------------------------


def _before(z, params, first):
    """What stood one place before each element, `first` before the first."""
    low, high = (-1, 1) if params["reverse"] else (1, -1)
    padding = [(low, high, 0) if axis == params["axis"] else (0, 0, 0) for axis in range(z.ndim)]
    return lax.pad(z, jnp.asarray(first, z.dtype), padding)


def _cumsum(equation, interval_of):
    grade = Grade.ROUNDED if is_differentiable(equation.out_avals[0]) else Grade.EXACT
    yield Inverse(0, lambda ins, outs: outs[0] - _before(outs[0], equation.params, 0), grade)


def _cumprod(equation, interval_of):
    if is_differentiable(equation.out_avals[0]):
        solve = lambda ins, outs: outs[0] / _before(outs[0], equation.params, 1)
        yield Inverse(0, solve, Grade.GUARDED, condition="no partial product is 0 or overflows")


def _cumlogsumexp(equation, interval_of):
    if not is_real(equation.out_avals[0]):
        return

    def solve(ins, outs):
        return outs[0] + jnp.log1p(-jnp.exp(_before(outs[0], equation.params, -jnp.inf) - outs[0]))

    yield Inverse(0, solve, Grade.GUARDED, condition="no element is lost beside the sum before it")


_INVERSE_FFT = {
    lax.FftType.FFT: jnp.fft.ifftn,
    lax.FftType.IFFT: jnp.fft.fftn,
    lax.FftType.RFFT: jnp.fft.irfftn,
}


def _fft(equation, interval_of):
    lengths, back = equation.params["fft_lengths"], _INVERSE_FFT.get(equation.params["fft_type"])
    if back is not None:
        axes = tuple(range(-len(lengths), 0))
        solve = lambda ins, outs: back(outs[0], lengths, axes).astype(equation.in_avals[0].dtype)
        yield Inverse(0, solve, Grade.ROUNDED)


# --- linear algebra ----------------------------------------------------------------------------------------


def _triangular_solve(equation, interval_of):
    """The right-hand side is the matrix times the solution."""
    params = equation.params

    def solve(ins, outs):
        matrix = (jnp.tril if params["lower"] else jnp.triu)(ins[0])
        if params["unit_diagonal"]:
            eye = jnp.eye(matrix.shape[-1], dtype=matrix.dtype)
            matrix = matrix * (1 - eye) + eye
        matrix = jnp.conj(matrix) if params["conjugate_a"] else matrix
        matrix = jnp.swapaxes(matrix, -1, -2) if params["transpose_a"] else matrix
        return matrix @ outs[0] if params["left_side"] else outs[0] @ matrix

    yield Inverse(1, solve, Grade.ROUNDED)


def _cholesky(equation, interval_of):
    def solve(ins, outs):
        factor = jnp.tril(outs[0])
        return factor @ jnp.conj(jnp.swapaxes(factor, -1, -2))

    yield Inverse(0, solve, Grade.GUARDED, condition="the operand is Hermitian and positive definite")


# --- elementwise -------------------------------------------------------------------------------------------


def _first(v, shape):
    """The first of the copies in `v` of what was spread from `shape`."""
    if shape == ():
        return lax.reshape(lax.slice(v, [0] * v.ndim, [1] * v.ndim), ())
    return lax.slice(v, [0] * v.ndim, np.minimum(shape, v.shape))


def _spread(equation, grade: Grade, solves: Any, condition: str = ""):
    """The operand of a sum or product that was spread over the other: one of its copies is enough."""
    shape = equation.out_avals[0].shape
    for operand, solve in enumerate(solves):
        own = equation.in_avals[operand].shape
        if own == shape or isinstance(equation.inputs[operand], Literal) or 0 in shape:
            continue
        back = lambda ins, outs, k=operand, own=own, solve=solve: solve(
            _first(outs[0], own), _first(ins[1 - k], own)
        )
        yield Inverse(operand, back, grade, condition=condition)


def _spread_sum(*solves: Any):
    def entry(equation, interval_of):
        grade = Grade.ROUNDED if is_differentiable(equation.out_avals[0]) else Grade.EXACT
        return _spread(equation, grade, solves)

    return entry


def _spread_product(*solves: Any, condition: str):
    def entry(equation, interval_of):
        if is_differentiable(equation.out_avals[0]):
            yield from _spread(equation, Grade.GUARDED, solves, condition)

    return entry


def _add(equation, interval_of):
    """x + x is 2x."""
    if equation.inputs[0] == equation.inputs[1] and is_differentiable(equation.out_avals[0]):
        yield Inverse(0, lambda ins, outs: outs[0] / 2, Grade.RELATIVE, reads=())
    yield from _spread_sum(lax.sub, lax.sub)(equation, interval_of)


def _pow(equation, interval_of):
    if not all(map(is_real, equation.in_avals)):
        return
    base, power = map(literal_value, equation.inputs)
    if solvable(equation, 0) and (power is None or (power != 0 and math.isfinite(power))):
        solve = lambda ins, outs: lax.pow(outs[0], 1 / ins[1])
        yield Inverse(0, solve, Grade.GUARDED, condition="the base is above 0 and the power is not 0")
    if solvable(equation, 1) and (base is None or (0 < base < math.inf and base != 1)):
        solve = lambda ins, outs: lax.log(outs[0]) / lax.log(ins[0])
        yield Inverse(1, solve, Grade.GUARDED, condition="the base is above 0 and not 1")


def _atan2(equation, interval_of):
    if solvable(equation, 0):
        solve = lambda ins, outs: ins[1] * lax.tan(outs[0])
        yield Inverse(0, solve, Grade.GUARDED, condition="the second operand is not 0")


def _erfc(equation, interval_of):
    solve = lambda ins, outs: lax.erf_inv(1 - outs[0])
    yield Inverse(0, solve, Grade.GUARDED, condition="the result is not near 0 or 2")


def _reduce_precision(equation, interval_of):
    yield Inverse(0, lambda ins, outs: outs[0], Grade.NARROWED)


# --- what may happen to drop nothing -----------------------------------------------------------------------


def _all_kept(equation, interval_of):
    """As many results as elements: a slice of everything, a reduction over axes of length 1."""
    shape = equation.in_avals[0].shape
    if math.prod(shape) == math.prod(equation.out_avals[0].shape):
        yield Inverse(0, lambda ins, outs: lax.reshape(outs[0], shape), Grade.EXACT, reads=())


# --- scatters, devices -------------------------------------------------------------------------------------


def _scatter_sum(equation, interval_of):
    """What was added can be taken off again."""
    grade = Grade.ROUNDED if is_differentiable(equation.out_avals[0]) else Grade.EXACT
    if equation.inputs[0] != equation.inputs[2]:
        yield Inverse(0, lambda ins, outs: _bind(equation, outs[0], ins[1], -ins[2]), grade)


def _scatter(equation, interval_of):
    """What was written can be read where it was written, as its cotangent would be, if each place is."""
    update = equation.in_avals[2]
    if not equation.params["unique_indices"] or not is_differentiable(update):
        return

    def solve(ins, outs):
        write = lambda u: _bind(equation, jnp.zeros_like(outs[0]), ins[1], u)
        _, read = jax.vjp(write, jnp.zeros(update.shape, update.dtype))
        return read(outs[0])[0]

    yield Inverse(2, solve, Grade.GUARDED, reads=(1,), condition="all places exist")


def _scatter_mul(equation, interval_of):
    if is_real(equation.out_avals[0]) and equation.inputs[0] != equation.inputs[2]:
        solve = lambda ins, outs: _bind(equation, outs[0], ins[1], 1 / ins[2])
        yield Inverse(0, solve, Grade.GUARDED, condition="no factor is 0")


def _bind(equation, *operands):
    return equation.bind(operands)[0]


def _permute(equation, interval_of):
    pairs = equation.params["perm"]
    sources, targets = ({pair[side] for pair in pairs} for side in (0, 1))
    if sources == targets:
        axis, back = equation.params["axis_name"], [(target, source) for source, target in pairs]
        yield Inverse(0, lambda ins, outs: lax.ppermute(outs[0], axis, back), Grade.EXACT)


def _moved(equation, interval_of):
    for operand in range(len(equation.inputs)):
        yield Inverse(operand, lambda ins, outs, k=operand: outs[k], Grade.EXACT, reads=())


DEAR: dict[Any, Any] = {
    p.dot_general_p: _dot_general,
    p.conv_general_dilated_p: _convolution,
    p.cumsum_p: _cumsum,
    p.cumprod_p: _cumprod,
    p.cumlogsumexp_p: _cumlogsumexp,
    p.fft_p: _fft,
    p.triangular_solve_p: _triangular_solve,
    p.cholesky_p: _cholesky,
    p.add_p: _add,
    p.sub_p: _spread_sum(lax.add, lambda z, x: x - z),
    p.mul_p: _spread_product(lax.div, lax.div, condition="the first other factor of each is not 0"),
    p.div_p: _spread_product(
        lax.mul, lambda z, x: x / z, condition="the first quotient of each is not 0, nor underflows"
    ),
    p.pow_p: _pow,
    p.atan2_p: _atan2,
    p.erfc_p: _erfc,
    p.reduce_precision_p: _reduce_precision,
    **dict.fromkeys(
        (p.slice_p, p.dynamic_slice_p, p.reduce_sum_p, p.reduce_max_p, p.reduce_min_p), _all_kept
    ),
    **dict.fromkeys((p.reduce_prod_p, p.reduce_and_p, p.reduce_or_p, p.reduce_xor_p), _all_kept),
    p.scatter_p: _scatter,
    p.scatter_add_p: _scatter_sum,
    lax.scatter_sub_p: _scatter_sum,
    p.scatter_mul_p: _scatter_mul,
    p.ppermute_p: _permute,
    **dict.fromkeys((p.device_put_p, *present("pvary_p")), _moved),
}


def _each(why: str, *primitives: Any) -> dict[Any, str]:
    return dict.fromkeys(primitives, why)


ERASES: dict[Any, str] = {
    # what an inverse exists for, where it does not apply
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
    p.conv_general_dilated_p: "each result mixes a window of elements",
    **_each("rows beyond all groups become 0", *present("ragged_dot_general_p")),
    p.fft_p: "the imaginary part of a real signal's ends is dropped",
    **_each("what is added to one place is summed", p.scatter_add_p, lax.scatter_sub_p),
    p.scatter_mul_p: "a factor of 0 leaves nothing, and integers wrap",
    p.triangular_solve_p: "only a triangle is read, and many have one solution",
    p.cumprod_p: "integers wrap",
    **_each("x and -x give the same", *present("one_minus_square_p")),
    # elementwise
    p.atan2_p: "only the angle is kept",
    **_each("x and -x give the same", p.abs_p, p.square_p, p.cosh_p, p.bessel_i0e_p),
    **_each("periodic", p.sin_p, p.cos_p, p.tan_p),
    **_each("not monotone", p.lgamma_p, p.digamma_p, p.polygamma_p, p.bessel_i1e_p, p.igamma_grad_a_p),
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
    **_each("the order is dropped", p.sort_p),
    **_each("all but the largest are dropped", p.top_k_p, p.approx_top_k_p),
    **_each("what was there is overwritten", p.scatter_p, p.scatter_min_p, p.scatter_max_p),
    **_each("what is not selected is dropped", p.select_and_scatter_p, p.select_and_scatter_add_p),
    # random numbers
    **_each("random bits do not give their key away", p.random_bits_p, p.random_gamma_p, p.rng_uniform_p),
    **_each("random bits do not give their key away", p.threefry2x32_p, p.rng_bit_generator_p),
}


def why_erased(equation) -> str:
    """How an equation without an inverse loses information; "no rule" if that is not known."""
    if equation.primitive is p.dot_general_p and equation.inputs[0] == equation.inputs[1]:
        return "x and -x have one product with themselves"
    if equation.primitive is p.dot_general_p and not is_differentiable(equation.out_avals[0]):
        return "integers wrap"
    return ERASES.get(equation.primitive, "no rule")


REFERENCE_ERASES: dict[Any, bool] = {
    **dict.fromkeys((p.random_bits_p, p.threefry2x32_p, p.rng_bit_generator_p, p.rng_uniform_p), False),
    **dict.fromkeys((p.tanh_p, p.erf_p, p.erfc_p, p.logistic_p, p.max_p, p.expm1_p), True),
}
"""What makes a module K in the reference's count, which knows dropout and activations: random bits, and the
nonlinear functions that activations are made of, the latter only on values of the module's full size (a layer
norm may clip its variance). All else is S there, projections and look-ups too."""
