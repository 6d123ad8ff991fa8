"""What a family of models consists of: one layer as a scan body, and the values of a stack of such layers.

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
    """The sizes B, T, H and L of a stack; H is a multiple of 4 times `HEADS`."""

    batch: int
    time: int
    width: int
    layers: int


class Stack(NamedTuple):
    """A model that `lax.scan(functools.partial(body, shared), carry, xs)` runs.

    All fields but `body` are pytrees of arrays; every iteration reads `shared`.
    """

    body: Callable[[Any, Any, Any], tuple[Any, Any]]
    shared: Any
    carry: Any
    xs: Any


def normal(seed: int, *shape: int, scale: float = 1.0) -> jax.Array:
    """Return values drawn from N(0, scale²)."""
    return scale * jax.random.normal(jax.random.key(seed), shape)


def cast(tree: Any, dtype: Any) -> Any:
    """Return the tree with its floats in another type."""
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
    """Return a stack of layers that have parameters of their own.

    `init(key)` draws the parameters of a layer, and `apply(params, carry, *shared)` returns the next carry;
    with `has_output` it returns the next carry and the output of the layer. The carry has the type `stream`,
    or if that is None `dtype`, the type of all the rest.
    """
    params = jax.vmap(init)(jax.random.split(jax.random.key(SEED), size.layers))

    def body(shared, carry, params):
        out = apply(params, carry, *shared)
        return out if has_output else (out, None)

    return Stack(body, cast(shared, dtype), cast(carry, stream or dtype), cast(params, dtype))


def recurrence(init: Callable, step: Callable, carry: Any, inputs: Any, dtype: Any) -> Stack:
    """Return a cell over time: `step(params, carry, input)` returns the next carry, also its output."""

    def body(params, carry, x):
        carry = step(params, carry, x)
        return carry, carry

    return Stack(body, *cast((init(jax.random.key(SEED)), carry, inputs), dtype))
