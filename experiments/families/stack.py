"""What a family of models gives: one layer as a scan body, and the values that a stack of such layers has.

Axes: B batch, T time or position (S where attended to), Y and X of an image, H width, N heads, D head width,
F feed-forward, L layers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

__all__ = ["HEADS", "Size", "Stack", "cast", "layers", "normal", "recurrence"]

HEADS = 4
SEED = 0


@dataclasses.dataclass(frozen=True)
class Size:
    """B, T, H and L of a stack; H is a multiple of 4 `HEADS`."""

    batch: int
    time: int
    width: int
    layers: int


class Stack(NamedTuple):
    """`lax.scan(functools.partial(body, shared), carry, xs)` runs the model; all but `body` is pytrees of
    arrays, and `shared` is what every iteration reads."""

    body: Callable[[Any, Any, Any], tuple[Any, Any]]
    shared: Any
    carry: Any
    xs: Any


def normal(seed: int, *shape: int, scale: float = 1.0) -> jax.Array:
    """Values from N(0, scale²)."""
    return scale * jax.random.normal(jax.random.key(seed), shape)


def cast(tree: Any, dtype: Any) -> Any:
    """The tree with its floats in another type."""
    return jax.tree.map(lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a, tree)


def layers(
    init: Callable,
    apply: Callable,
    carry: Any,
    size: Size,
    dtype: Any,
    *,
    shared: Any = (),
    has_output: bool = False,
    stream: Any = None,
) -> Stack:
    """Layers with parameters of their own: `apply(params, carry, *shared)`, `init(key)` draws the parameters.

    With `has_output`, `apply` returns (carry, output of the layer). The carry has the type `stream`, else
    that of all the rest.
    """
    params = jax.vmap(init)(jax.random.split(jax.random.key(SEED), size.layers))

    def body(shared, carry, params):
        out = apply(params, carry, *shared)
        return out if has_output else (out, None)

    return Stack(body, cast(shared, dtype), cast(carry, stream or dtype), cast(params, dtype))


def recurrence(init: Callable, step: Callable, carry: Any, inputs: Any, dtype: Any) -> Stack:
    """One cell over time: `step(params, carry, input)` returns the next carry, which is its output too."""

    def body(params, carry, x):
        carry = step(params, carry, x)
        return carry, carry

    return Stack(body, *cast((init(jax.random.key(SEED)), carry, inputs), dtype))
