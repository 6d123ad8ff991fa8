"""Narrow floats as integers of their width, where a compiler would hold them in a wider type.

XLA's CPU compiler takes no slices of arrays of floats of 8 bits, and before JAX 0.11 of bfloat16. A loop
that writes or reads such an array holds it in float16 or float32, and converts it before and after. So each
element that a scan stacks takes 3 bytes instead of 1, or 6 instead of 2, while a float32 takes 4. Integers
stay as they are.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from bwsk_jax.engine.program.platform import platform
from bwsk_jax.engine.program.types import is_real

__all__ = ["as_integers", "from_integers", "is_widened"]

_NARROW = (8, 16)
"""Bits of the floats that have an integer of their width."""
_LEFT_ALONE = {"cpu": (jnp.float16, jnp.bfloat16) if jax.__version_info__ >= (0, 11) else (jnp.float16,)}
"""The narrow floats that a platform leaves alone, for each that widens the others."""


def is_widened(aval: Any) -> bool:
    """Whether the compiler for this platform would hold a stack of values of this type in a wider one."""
    if not is_real(aval) or jnp.finfo(aval.dtype).bits not in _NARROW:
        return False
    return platform() in _LEFT_ALONE and aval.dtype not in _LEFT_ALONE[platform()]


def as_integers(x: jax.Array) -> jax.Array:
    """The bits of each float as an unsigned integer, without a derivative.

    >>> as_integers(jnp.array([1.0, -2.0], jnp.bfloat16)).tolist()
    [16256, 49152]
    """
    return lax.bitcast_convert_type(lax.stop_gradient(x), f"uint{jnp.finfo(x.dtype).bits}")


def from_integers(bits: jax.Array, aval: Any, like: jax.Array | None = None) -> jax.Array:
    """The floats of type `aval` again, with the derivative of `like`, of which nothing else is read.

    >>> x = jnp.array([1.0, -2.0], jnp.bfloat16)
    >>> jax.grad(lambda x: (from_integers(as_integers(x), x, like=x) ** 2).sum())(x).tolist()
    [2.0, -4.0]
    """
    floats = lax.bitcast_convert_type(bits, aval.dtype)
    return floats if like is None else _with_derivative(floats, like)


@jax.custom_jvp
def _with_derivative(x: jax.Array, like: jax.Array) -> jax.Array:
    """The first argument, with the derivative of the second."""
    return x


@_with_derivative.defjvp
def _jvp(primals, tangents):
    return _with_derivative(*primals), tangents[1]
