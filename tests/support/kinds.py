"""What a report says of the equations of a function, in short."""

import jax
import jax.numpy as jnp

import bwsk_jax

X = jax.ShapeDtypeStruct((4, 8), jnp.float32)


def kinds(fun, *args, **how):
    """Maps each primitive to the kinds of its lines, in order."""
    found = {}
    for line in bwsk_jax.classify(fun, *args, **how).lines:
        found.setdefault(line.primitive, []).append(line.kind)
    return found


def kind_of(call, primitive, *operands):
    """The kind that all lines of this primitive have."""
    (kind,) = set(kinds(call, *operands)[str(primitive)])
    return kind


def only_line(primitive, fun, *args, **how):
    """The line of the report that has this primitive; there has to be one."""
    (line,) = [line for line in bwsk_jax.classify(fun, *args, **how).lines if line.primitive == primitive]
    return line


def module_kinds(fun, *args, **how):
    """Maps the name of each leaf module to its kind."""
    return {
        module.name: module.kind for module in bwsk_jax.classify(fun, *args, **how).modules if module.leaf
    }
