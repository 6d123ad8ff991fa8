"""The costly inverses: how to solve for operands at a price or on a condition that no gradient should pay.

A pseudo-inverse, or a factorisation multiplied out again, shows that an equation preserves information, which
is all that a report asks. A backward pass would rather replay. So `COSTLY_INVERSES` has the form of the
engine's table `INVERSES`, and a report reads both, but the engine reads only its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Literal
from jax.extend.core import primitives as p

from bwsk_jax.engine.program.jaxprs import Equation, literal_value, present
from bwsk_jax.engine.program.types import is_differentiable, is_real
from bwsk_jax.engine.rules.exactness import Grade
from bwsk_jax.engine.rules.inverses import Inverse, solvable

__all__ = ["COSTLY_INVERSES"]

_FULL_RANK = "the other operand has full rank; error grows with its condition number"


# --- contractions ------------------------------------------------------------------------------------------


def _dot_general(equation, interval_of):
    """Solve by a pseudo-inverse for an operand whose rows the other maps to at least as many dimensions."""
    if not _has_pseudo_inverse(equation):
        return
    (contracted, batched) = equation.params["dimension_numbers"]
    for operand in (0, 1):
        other = equation.in_avals[1 - operand].shape
        width = math.prod(other[axis] for axis in contracted[1 - operand])
        copies = math.prod(other[axis] for axis in batched[1 - operand])
        maps_to_fewer = math.prod(other) < copies * width**2
        if width == 0 or maps_to_fewer or isinstance(equation.inputs[operand], Literal):
            continue
        solve = lambda ins, outs, k=operand: _solve_contraction(equation, k, ins[1 - k], outs[0])
        yield Inverse(operand, solve, Grade.GUARDED, condition=_FULL_RANK)


def _has_pseudo_inverse(equation) -> bool:
    """Whether the operands are floats, and not one matrix that stands on both sides."""
    return all(map(is_differentiable, equation.in_avals)) and equation.inputs[0] != equation.inputs[1]


def _solve_contraction(equation, operand: int, other, out):
    """Solve `out = x other` (or `other x`) for x.

    The axes of both operands are batch (b), contracted (c) or free: rows (r) of x, columns (f) of the other.
    They are sorted and joined, so that one pseudo-inverse per batch element remains.
    """
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
    return lax.transpose(solved, np.argsort(order).tolist()).astype(aval.dtype)


def _convolution(equation, interval_of):
    """Solve for the image if the window is one element: such a convolution is a product with a matrix."""
    params, (image, kernel) = equation.params, equation.in_avals
    numbers = params["dimension_numbers"]
    features_out, features_in = (kernel.shape[axis] for axis in numbers.rhs_spec[:2])
    pointwise = (
        math.prod(kernel.shape) == features_in * features_out
        and {*params["window_strides"], *params["lhs_dilation"]} <= {1}
        and not np.any(params["padding"])
        and params["feature_group_count"] == params["batch_group_count"] == 1
    )
    if not pointwise or features_out < features_in or not _has_pseudo_inverse(equation):
        return

    def solve(ins, outs):
        matrix_oi = jnp.transpose(ins[1], numbers.rhs_spec).reshape(features_out, features_in)
        features_last = lambda spec: (spec[0], *spec[2:], spec[1])
        solved = jnp.transpose(outs[0], features_last(numbers.out_spec)) @ jnp.linalg.pinv(matrix_oi.T)
        return jnp.transpose(solved, np.argsort(features_last(numbers.lhs_spec)).tolist()).astype(image.dtype)

    yield Inverse(0, solve, Grade.GUARDED, condition=_FULL_RANK)


# --- sums and products along an axis -----------------------------------------------------------------------


def _previous(z, params, first):
    """The element before each element along the axis; before the first one stands `first`."""
    low, high = (-1, 1) if params["reverse"] else (1, -1)
    padding = [(low, high, 0) if axis == params["axis"] else (0, 0, 0) for axis in range(z.ndim)]
    return lax.pad(z, jnp.asarray(first, z.dtype), padding)


def _cumsum(equation, interval_of):
    """Take the differences of neighbours."""
    grade = Grade.ROUNDED if is_differentiable(equation.out_avals[0]) else Grade.EXACT
    yield Inverse(0, lambda ins, outs: outs[0] - _previous(outs[0], equation.params, 0), grade)


def _cumprod(equation, interval_of):
    """Take the quotients of neighbours."""
    if is_differentiable(equation.out_avals[0]):
        solve = lambda ins, outs: outs[0] / _previous(outs[0], equation.params, 1)
        yield Inverse(0, solve, Grade.GUARDED, condition="no partial product is 0 or overflows")


def _cumlogsumexp(equation, interval_of):
    """Take the differences of neighbours as exponentials, and the logarithms of these."""
    if not is_real(equation.out_avals[0]):
        return

    def solve(ins, outs):
        return outs[0] + jnp.log1p(-jnp.exp(_previous(outs[0], equation.params, -jnp.inf) - outs[0]))

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
    """Recover the right-hand side as the matrix times the solution."""
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
    """Multiply the factorisation out again."""

    def solve(ins, outs):
        factor = jnp.tril(outs[0])
        return factor @ jnp.conj(jnp.swapaxes(factor, -1, -2))

    yield Inverse(0, solve, Grade.GUARDED, condition="the operand is Hermitian and positive definite")


# --- elementwise -------------------------------------------------------------------------------------------


def _first_copy(v, shape):
    """Of a value that was broadcast from `shape`, the first of the copies."""
    if shape == ():
        return lax.reshape(lax.slice(v, [0] * v.ndim, [1] * v.ndim), ())
    return lax.slice(v, [0] * v.ndim, np.minimum(shape, v.shape))


def _broadcast(equation, grade: Grade, solves: Iterable[Callable], condition: str = "") -> Iterator[Inverse]:
    """Solve for an operand that was broadcast over the other: one of its copies is enough.

    `solves[k](out, other)` gives operand k back, as if nothing had been broadcast.
    """
    shape = equation.out_avals[0].shape
    for operand, solve in enumerate(solves):
        own = equation.in_avals[operand].shape
        if own == shape or isinstance(equation.inputs[operand], Literal) or 0 in shape:
            continue
        back = lambda ins, outs, k=operand, own=own, solve=solve: solve(
            _first_copy(outs[0], own), _first_copy(ins[1 - k], own)
        )
        yield Inverse(operand, back, grade, condition=condition)


def _broadcast_sum(*solves: Callable):
    """An entry for sums and differences."""

    def entry(equation, interval_of):
        grade = Grade.ROUNDED if is_differentiable(equation.out_avals[0]) else Grade.EXACT
        return _broadcast(equation, grade, solves)

    return entry


def _broadcast_product(*solves: Callable, condition: str):
    """An entry for products and quotients."""

    def entry(equation, interval_of):
        if is_differentiable(equation.out_avals[0]):
            yield from _broadcast(equation, Grade.GUARDED, solves, condition)

    return entry


def _add(equation, interval_of):
    """Halve x + x, and solve other sums for an operand that was broadcast."""
    if equation.inputs[0] == equation.inputs[1] and is_differentiable(equation.out_avals[0]):
        yield Inverse(0, lambda ins, outs: outs[0] / 2, Grade.RELATIVE, reads=())
    yield from _broadcast_sum(lax.sub, lax.sub)(equation, interval_of)


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
    """Take the result for the operand, which it is up to the digits that were dropped."""
    yield Inverse(0, lambda ins, outs: outs[0], Grade.NARROWED)


# --- slices and reductions ---------------------------------------------------------------------------------


def _drops_nothing(equation, interval_of):
    """Reshape back what has as many results as elements: a whole slice, a reduction of axes of length 1."""
    shape = equation.in_avals[0].shape
    if math.prod(shape) == math.prod(equation.out_avals[0].shape):
        yield Inverse(0, lambda ins, outs: lax.reshape(outs[0], shape), Grade.EXACT, reads=())


# --- scatters and devices ----------------------------------------------------------------------------------


def _scatter_sum(equation, interval_of):
    """Subtract what was added."""
    grade = Grade.ROUNDED if is_differentiable(equation.out_avals[0]) else Grade.EXACT
    if equation.inputs[0] != equation.inputs[2]:
        yield Inverse(0, lambda ins, outs: _bind(equation, outs[0], ins[1], -ins[2]), grade)


def _scatter(equation, interval_of):
    """Read the update from where it was written, if no two elements were written to one place.

    A scatter's own VJP does that: it reads the cotangent at the places of the update.
    """
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
    """Send everything back, if every device that sent also received."""
    pairs = equation.params["perm"]
    sources, targets = ({pair[side] for pair in pairs} for side in (0, 1))
    if sources == targets:
        axis, back = equation.params["axis_name"], [(target, source) for source, target in pairs]
        yield Inverse(0, lambda ins, outs: lax.ppermute(outs[0], axis, back), Grade.EXACT)


def _move(equation, interval_of):
    """Take each result for its operand: only the place has changed."""
    for operand in range(len(equation.inputs)):
        yield Inverse(operand, lambda ins, outs, k=operand: outs[k], Grade.EXACT, reads=())


COSTLY_INVERSES: dict[Any, Callable[[Equation, Callable], Iterable[Inverse]]] = {
    p.dot_general_p: _dot_general,
    p.conv_general_dilated_p: _convolution,
    p.cumsum_p: _cumsum,
    p.cumprod_p: _cumprod,
    p.cumlogsumexp_p: _cumlogsumexp,
    p.fft_p: _fft,
    p.triangular_solve_p: _triangular_solve,
    p.cholesky_p: _cholesky,
    p.add_p: _add,
    p.sub_p: _broadcast_sum(lax.add, lambda z, x: x - z),
    p.mul_p: _broadcast_product(lax.div, lax.div, condition="the first other factor of each is not 0"),
    p.div_p: _broadcast_product(
        lax.mul, lambda z, x: x / z, condition="the first quotient of each is not 0, nor underflows"
    ),
    p.pow_p: _pow,
    p.atan2_p: _atan2,
    p.erfc_p: _erfc,
    p.reduce_precision_p: _reduce_precision,
    **dict.fromkeys(
        (p.slice_p, p.dynamic_slice_p, p.reduce_sum_p, p.reduce_max_p, p.reduce_min_p), _drops_nothing
    ),
    **dict.fromkeys((p.reduce_prod_p, p.reduce_and_p, p.reduce_or_p, p.reduce_xor_p), _drops_nothing),
    p.scatter_p: _scatter,
    p.scatter_add_p: _scatter_sum,
    lax.scatter_sub_p: _scatter_sum,
    p.scatter_mul_p: _scatter_mul,
    p.ppermute_p: _permute,
    **dict.fromkeys((p.device_put_p, *present("pvary_p")), _move),
}
"""Maps a primitive to a function that lists an equation's inverses, given the intervals of its values."""
