"""What the type of a value says of it, and types made from types."""

from __future__ import annotations

import math
from typing import Any

import jax
from jax.api_util import shaped_abstractify
from jax.extend import core
from jax.extend.core import primitives as lax_p

__all__ = [
    "again",
    "at_least_float32",
    "cast_like",
    "digits",
    "harmless_amplification",
    "is_differentiable",
    "is_key",
    "is_real",
    "nbytes",
    "on_mesh_of",
    "size",
    "slice_type",
    "stacked_type",
    "type_of",
    "varying_axes",
    "without_weak_type",
]


def size(aval: Any) -> int:
    """How many elements a value of this type has; a token has none."""
    return math.prod(aval.shape) if hasattr(aval, "shape") else 0


def nbytes(aval: Any) -> int:
    """Bytes that a value of this type occupies; a key counts its words, a token has none."""
    return size(aval) * aval.dtype.itemsize if hasattr(aval, "dtype") else 0


def is_differentiable(aval: Any) -> bool:
    """Whether a value of this type has a cotangent: real and complex floats do."""
    return hasattr(aval, "dtype") and jax.numpy.issubdtype(aval.dtype, jax.numpy.inexact)


def digits(aval: Any) -> int:
    """Binary digits of the significand of a float's type, 0 for any other type."""
    return int(jax.numpy.finfo(aval.dtype).nmant) if is_differentiable(aval) else 0


def harmless_amplification(dtype: Any) -> float:
    """By how much rounding may grow before half of the digits of a float's type are gone."""
    return float(jax.numpy.finfo(dtype).eps) ** -0.5


def is_real(aval: Any) -> bool:
    """Whether a value of this type is a real float."""
    return hasattr(aval, "dtype") and jax.numpy.issubdtype(aval.dtype, jax.numpy.floating)


def is_key(aval: Any) -> bool:
    """Whether a value of this type is a key for random numbers."""
    return hasattr(aval, "dtype") and jax.numpy.issubdtype(aval.dtype, jax.dtypes.prng_key)


def again(x: Any) -> Any:
    """An array for a second use, which of a key is no reuse: the same numbers are drawn from it."""
    return jax.random.clone(x) if is_key(x) else x


def at_least_float32(x: Any) -> Any:
    """A float array in float32, or as it is if its type is wider. JAX itself promotes no float of 8 bits."""
    return x.astype(jax.numpy.float32) if jax.numpy.finfo(x.dtype).bits < 32 else x


def type_of(x: Any) -> Any:
    """The type of an array, Python scalar or `jax.ShapeDtypeStruct`, with how it is spread over devices."""
    return shaped_abstractify(x)


def on_mesh_of(x: Any, aval: Any) -> Any:
    """The type `aval` on the mesh of `x`, which `jax.eval_shape` leaves out if its axes are automatic."""
    sharding = type_of(x).sharding
    return aval.update(sharding=sharding) if aval.sharding.mesh.empty else aval


def cast_like(x: Any, aval: Any) -> Any:
    """An array cast to the width and the weakness of a type, as JAX casts where types are promoted."""
    own = type_of(x)
    if (own.dtype, own.weak_type) == (aval.dtype, aval.weak_type):
        return x
    return lax_p.convert_element_type_p.bind(x, new_dtype=aval.dtype, weak_type=aval.weak_type, sharding=None)


def without_weak_type(aval: Any) -> Any:
    """The same type, but no longer weak, as that of a Python scalar is."""
    return aval.update(weak_type=False)


def slice_type(aval: Any) -> Any:
    """What a scan sees of an array of this type in one iteration."""
    return core.mapped_aval(aval.shape[0], 0, aval)


def stacked_type(aval: Any) -> Any:
    """One value of this type, to scan over."""
    return core.unmapped_aval(1, 0, aval)


def varying_axes(x: Any) -> frozenset[str]:
    """The mapped axes along which an array differs."""
    return jax.typeof(x).manual_axis_type.varying
