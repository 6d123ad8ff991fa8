"""Costly inverses of products with a matrix, and of sums and products along an axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Literal
from jax.extend.core import primitives as p

from bwsk_jax.classification.values import ValueInfo
from bwsk_jax.engine.program.jaxprs import Equation
from bwsk_jax.engine.program.types import is_differentiable, is_real
from bwsk_jax.engine.rules.exactness import Grade
from bwsk_jax.engine.rules.inverses import Inverse

__all__ = ["OF_CONTRACTIONS"]

_FULL_RANK = "the other operand has full rank; error grows with its condition number"


# --- products with a matrix --------------------------------------------------------------------------------


def _dot_general(equation, info):
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


def _convolution(equation, info):
    """Solve for the image if the windows cover each of its elements once, as patches do.

    Each patch is mapped by the same matrix, so that one pseudo-inverse per group of features gives it back.
    """
    params, (image, kernel) = equation.params, equation.in_avals
    numbers, groups = params["dimension_numbers"], params["feature_group_count"]
    features_out, *window = (kernel.shape[axis] for axis in (numbers.rhs_spec[0], *numbers.rhs_spec[1:]))
    maps_to_fewer = features_out // groups < math.prod(window)
    if maps_to_fewer or not _covers_once(equation) or not _has_pseudo_inverse(equation):
        return

    def solve(ins, outs):
        dtype = jnp.promote_types(outs[0].dtype, jnp.float32)
        kernel_gow = ins[1].transpose(numbers.rhs_spec).reshape(groups, features_out // groups, -1)
        out_bos = outs[0].transpose(numbers.out_spec)
        batch, _, *counts = out_bos.shape
        out_bgon = out_bos.reshape(batch, groups, features_out // groups, -1).astype(dtype)
        patches = jnp.einsum("gwo,bgon->bgwn", jnp.linalg.pinv(kernel_gow.astype(dtype)), out_bgon)
        padded = _join(patches.reshape(batch, groups * window[0], *window[1:], *counts), len(counts))
        starts = [0, 0, *(low for low, _ in params["padding"])]
        shape = [image.shape[axis] for axis in numbers.lhs_spec]
        limits = [start + size for start, size in zip(starts, shape, strict=True)]
        solved = lax.slice(padded, starts, limits)
        return solved.transpose(np.argsort(numbers.lhs_spec).tolist()).astype(image.dtype)

    yield Inverse(0, solve, Grade.GUARDED, condition=_FULL_RANK)


def _covers_once(equation) -> bool:
    """Whether each element of the image is in exactly one window of a convolution."""
    params = equation.params
    numbers = params["dimension_numbers"]
    spatial = lambda aval, spec: [aval.shape[axis] for axis in spec[2:]]
    along_each_axis = zip(
        spatial(equation.in_avals[0], numbers.lhs_spec),
        spatial(equation.in_avals[1], numbers.rhs_spec),
        spatial(equation.out_avals[0], numbers.out_spec),
        params["window_strides"],
        params["rhs_dilation"],
        params["padding"],
        strict=True,
    )
    return (
        {*params["lhs_dilation"]} <= {1}
        and params["batch_group_count"] == 1
        and all(
            window == stride and (window == 1 or dilation == 1) and low >= 0 and count * stride >= low + size
            for size, window, count, stride, dilation, (low, _) in along_each_axis
        )
    )


def _join(patches, rank: int):
    """Join patches `[batch, features, *window, *counts]` to images `[batch, features, *size]`."""
    batch, features, *sizes = patches.shape
    pairs = [(2 + rank + axis, 2 + axis) for axis in range(rank)]
    order = [0, 1, *(axis for pair in pairs for axis in pair)]
    shape = [count * window for window, count in zip(sizes[:rank], sizes[rank:], strict=True)]
    return patches.transpose(order).reshape(batch, features, *shape)


# --- sums and products along an axis ---------------------------------------------------------------------


def _previous(z, params, first):
    """The element before each element along the axis; before the first one stands `first`."""
    low, high = (-1, 1) if params["reverse"] else (1, -1)
    padding = [(low, high, 0) if axis == params["axis"] else (0, 0, 0) for axis in range(z.ndim)]
    return lax.pad(z, jnp.asarray(first, z.dtype), padding)


def _cumsum(equation, info):
    """Take the differences of neighbours."""
    grade = Grade.ROUNDED if is_differentiable(equation.out_avals[0]) else Grade.EXACT
    yield Inverse(0, lambda ins, outs: outs[0] - _previous(outs[0], equation.params, 0), grade)


def _cumprod(equation, info):
    """Take the quotients of neighbours."""
    if is_differentiable(equation.out_avals[0]):
        solve = lambda ins, outs: outs[0] / _previous(outs[0], equation.params, 1)
        yield Inverse(0, solve, Grade.GUARDED, condition="no partial product is 0 or overflows")


def _cumlogsumexp(equation, info):
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


def _fft(equation, info):
    lengths, back = equation.params["fft_lengths"], _INVERSE_FFT.get(equation.params["fft_type"])
    if back is not None:
        axes = tuple(range(-len(lengths), 0))
        solve = lambda ins, outs: back(outs[0], lengths, axes).astype(equation.in_avals[0].dtype)
        yield Inverse(0, solve, Grade.ROUNDED)


OF_CONTRACTIONS: dict[Any, Callable[[Equation, ValueInfo], Iterable[Inverse]]] = {
    p.dot_general_p: _dot_general,
    p.conv_general_dilated_p: _convolution,
    p.cumsum_p: _cumsum,
    p.cumprod_p: _cumprod,
    p.cumlogsumexp_p: _cumlogsumexp,
    p.fft_p: _fft,
}
"""The part of `COSTLY_INVERSES` that this file gives."""
