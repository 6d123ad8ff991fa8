"""Custom derivatives: what is not differentiated, and `jax.vmap` of an axis with a name.

What does not vary is not differentiated: what reads it may have no derivative, or one that is not finite.
Where nothing differentiates an output, its cotangent is None. To take it for an array of zeros would multiply
these with derivatives that may be infinite.

`vmap` runs the rules of a `jax.custom_vjp` function where the axis has no name, so that collectives do not
find it; and a result that all elements share has one cotangent, which each would take for its own.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jax.custom_derivatives import CustomVJPPrimal, SymbolicZero, custom_vjp_primal_tree_values

from bwsk_jax.engine.program.jaxprs import named_axes, naming_axes
from bwsk_jax.engine.program.types import again, is_differentiable

__all__ = ["Rules", "with_rules"]

# From 0.12 on JAX asks for this by name before it shares a cotangent out itself.
_SHARES_OUT = "generic_batching" in inspect.signature(jax.custom_vjp.defvjp).parameters


class Rules(Protocol):
    """The rules of a derivative with respect to some inputs, as `jax.custom_vjp` has them.

    But a cotangent that nothing has contributed to is None. So is that of an input that does not vary.
    """

    @property
    def forward(self) -> Callable[..., Any]:
        """From the arguments to the result, and what `backward` has to know."""
        ...

    @property
    def backward(self) -> Callable[[Any, Any], Any]:
        """From that and the cotangents of the result to those of the arguments."""
        ...


def with_rules(fun: Callable, rules: Callable[[tuple[bool, ...]], Rules]) -> Callable:
    """`fun` with a derivative, the rules of which run where the axes have names that have one now.

    `rules` gives those with respect to some inputs: it is told of each leaf of the arguments whether it is a
    float that varies.
    """
    call = jax.custom_vjp(fun)
    sharing = {"generic_batching": True} if _SHARES_OUT else {}
    call.defvjp(*_within_axes(fun, rules), symbolic_zeros=True, **sharing)
    return call


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Varied:
    """Which leaves of the arguments vary."""

    leaves: tuple[bool, ...]


def _within_axes(fun: Callable, rules: Callable[[tuple[bool, ...]], Rules]) -> tuple[Callable, Callable]:
    axes = named_axes()
    missing = lambda: {name: size for name, size in axes.items() if name not in named_axes()}

    @functools.wraps(fun)
    def forward_within(*args):
        leaves: list[CustomVJPPrimal] = jax.tree.leaves(args)
        varied = tuple(leaf.perturbed and is_differentiable(leaf.value) for leaf in leaves)
        with naming_axes(missing()):
            result, kept = rules(varied).forward(*custom_vjp_primal_tree_values(args))
        return result, (_Varied(varied), kept)

    @functools.wraps(fun)
    def backward_within(kept, cotangents):
        varied, kept = jax.tree.map(again, kept)
        cotangents = jax.tree.map(lambda ct: None if isinstance(ct, SymbolicZero) else ct, cotangents)
        lost = missing()
        with naming_axes(lost):
            for name in lost:
                cotangents = jax.tree.map(functools.partial(_counted_once, name), cotangents)
            return rules(varied.leaves).backward(kept, cotangents)

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
