"""Dropout by 16-bit comparisons: which elements are kept, and how much larger they become.

Two elements share each 32-bit random word: `jax.random.bernoulli`, and 16-bit `jax.random.bits` too, draw a
word per element, which on a CPU takes 2 to 3 times as long and, with threefry keys, 2.7 times the memory.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

__all__ = ["drawn", "dropped", "inflation", "threshold_of"]


def threshold_of(rate: float) -> int:
    """Return the number, of 2**16, of halfwords that drop an element (0.1 becomes 0.100006)."""
    return min(round(rate * 2**16), 2**16 - 1)


def inflation(threshold: int) -> float:
    """Return the factor of the elements that are kept, which keeps the expectation."""
    return 2**16 / (2**16 - threshold)


def drawn(key: jax.Array, shape: tuple[int, ...], threshold: int) -> jax.Array:
    """Draw whether each element is kept, two for each 32-bit random word, by its lower and by its upper half.

    The elements of the lower halves come before those of the upper ones. Pairs side by side would be an axis
    of length 2, which a TPU pads to a whole register.
    """
    *leading, last = shape
    words = jax.random.bits(key, (*leading, -(-last // 2)), jnp.uint32)
    least = jnp.uint32(threshold << 16)
    return jnp.concatenate([words << 16 >= least, words >= least], axis=-1)[..., :last]


def dropped(x: jax.Array, kept: jax.Array) -> jax.Array:
    """Return ``x`` where it is kept, and 0 elsewhere."""
    return jax.lax.select(kept, x, jnp.zeros_like(x))
