"""What a report says of a function, in short."""

import jax
import jax.numpy as jnp

import bwsk_jax

X = jax.ShapeDtypeStruct((4, 8), jnp.float32)


def kinds(fun, *args, **how):
    """primitive -> kinds of its lines, in order."""
    found = {}
    for line in bwsk_jax.classify(fun, *args, **how).lines:
        found.setdefault(line.primitive, []).append(line.kind)
    return found
