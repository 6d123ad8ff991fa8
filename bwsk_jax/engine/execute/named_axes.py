"""Custom derivatives: what is not differentiated, and `jax.vmap` of an axis with a name.

Where nothing differentiates an output, its cotangent is None. To take it for an array of zeros would multiply
these with derivatives that may be infinite.

`vmap` runs the rules of a `jax.custom_vjp` function where the axis has no name, so that collectives do not
find it; and a result that all elements share has one cotangent, which each would take for its own.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jax.custom_derivatives import SymbolicZero, custom_vjp_primal_tree_values

from bwsk_jax.engine.program.jaxprs import named_axes, naming_axes
from bwsk_jax.engine.program.types import is_differentiable

__all__ = ["with_rules"]

# From 0.12 on JAX asks for this by name before it shares a cotangent out itself.
_SHARES_OUT = "generic_batching" in inspect.signature(jax.custom_vjp.defvjp).parameters


def with_rules(fun: Callable, forward: Callable, backward: Callable) -> Callable:
    """`fun` with these rules of its derivative, which run where the axes have names that have one now.

    They are those of `jax.custom_vjp`, but a cotangent that nothing has contributed to is None.
    """
    call = jax.custom_vjp(fun)
    sharing = {"generic_batching": True} if _SHARES_OUT else {}
    call.defvjp(*_within_axes(forward, backward), symbolic_zeros=True, **sharing)
    return call


def _within_axes(forward: Callable, backward: Callable) -> tuple[Callable, Callable]:
    axes = named_axes()
    missing = lambda: {name: size for name, size in axes.items() if name not in named_axes()}

    @functools.wraps(forward)
    def forward_within(*args):
        with naming_axes(missing()):
            return forward(*custom_vjp_primal_tree_values(args))

    @functools.wraps(backward)
    def backward_within(kept, cotangents):
        cotangents = jax.tree.map(lambda ct: None if isinstance(ct, SymbolicZero) else ct, cotangents)
        lost = missing()
        with naming_axes(lost):
            for name in lost:
                cotangents = jax.tree.map(functools.partial(_counted_once, name), cotangents)
            return backward(kept, cotangents)

    return forward_within, backward_within


def _counted_once(name: str, cotangent: Any) -> Any:
    if not is_differentiable(cotangent):
        return cotangent
    return _given_to_the_first(cotangent, lax.axis_index(name))


@custom_vmap
def _given_to_the_first(cotangent, index):
    """The cotangent; of one that all elements of the axis of `index` share, the first has all."""
    return cotangent


@_given_to_the_first.def_vmap
def _given_to_the_first_of_axis(size, batched, cotangent, index):
    shared, own_axis = not batched[0], batched[1]
    if own_axis and shared:
        return jnp.zeros((size, *cotangent.shape), cotangent.dtype).at[0].set(cotangent), True
    return (cotangent if own_axis else _given_to_the_first(cotangent, index)), not shared
