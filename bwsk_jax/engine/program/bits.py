"""Booleans as bits, eight to a byte: how a mask is kept between the forward and the backward pass."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from bwsk_jax.engine.program.types import nbytes, size

__all__ = ["is_packed", "kept_nbytes", "pack", "unpack"]

BITS = 8


def is_packed(aval: Any) -> bool:
    """Whether values of this type are kept as bits: booleans are, where that saves anything."""
    return getattr(aval, "dtype", None) == jnp.bool_ and size(aval) > 1


def kept_nbytes(aval: Any) -> int:
    """Bytes that a value of this type takes while it is kept.

    >>> kept_nbytes(jax.ShapeDtypeStruct((3, 16, 4), bool)), kept_nbytes(jax.ShapeDtypeStruct((3, 5), bool))
    (24, 2)
    """
    return -(-size(aval) // BITS) if is_packed(aval) else nbytes(aval)


def pack(x: jax.Array) -> jax.Array:
    """The booleans as bits of uint8.

    >>> unpack(pack(jnp.array([True, False, True])), jax.ShapeDtypeStruct((3,), bool)).tolist()
    [True, False, True]
    """
    axis = _axis(x.shape)
    if axis is None:
        x, axis = jnp.pad(x.reshape(-1), (0, -x.size % BITS)), 0
    grouped = x.reshape(*x.shape[:axis], x.shape[axis] // BITS, BITS, *x.shape[axis + 1 :])
    shifts = lax.broadcasted_iota(jnp.uint8, grouped.shape, axis + 1)
    return jnp.sum(grouped.astype(jnp.uint8) << shifts, axis + 1, dtype=jnp.uint8)


def unpack(packed: jax.Array, aval: Any) -> jax.Array:
    """The booleans of type `aval` that were packed."""
    axis = _axis(aval.shape)
    place = 0 if axis is None else axis
    spread = jnp.broadcast_to(
        jnp.expand_dims(packed, place + 1),
        (*packed.shape[: place + 1], BITS, *packed.shape[place + 1 :]),
    )
    shifts = lax.broadcasted_iota(jnp.uint8, spread.shape, place + 1)
    x = lax.collapse((spread >> shifts) & 1 == 1, place, place + 2)
    return x[: size(aval)].reshape(aval.shape) if axis is None else x


def _axis(shape: tuple[int, ...]) -> int | None:
    """The axis along which eight neighbours share a byte, None if no axis can be divided so.

    The last but one comes first: the last is what an accelerator lays out in lanes, and the first is often a
    batch that is spread over devices.
    """
    inner_first = sorted(range(len(shape)), key=lambda axis: (axis != len(shape) - 2, -axis))
    return next((axis for axis in inner_first if shape[axis] and shape[axis] % BITS == 0), None)
