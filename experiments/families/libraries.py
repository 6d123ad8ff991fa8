"""Modules of four libraries as pairs of functions, `init(key) -> params` and `apply(params, *args)`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import haiku as hk
import jax
from flax import linen, nnx

__all__ = ["from_equinox", "from_haiku", "from_linen", "from_nnx"]

Pair = tuple[Callable[..., Any], Callable[..., Any]]


def from_linen(module: linen.Module, *example: Any) -> Pair:
    """Return the functions of a Linen module that is called with arguments like the example."""
    return lambda key: module.init(key, *example)["params"], lambda p, *args: module.apply(
        {"params": p}, *args
    )


def from_nnx(make: Callable[[nnx.Rngs], nnx.Module]) -> Pair:
    """Return the functions of the NNX module that `make` makes."""
    graph = nnx.graphdef(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
    return lambda key: nnx.state(make(nnx.Rngs(key))), lambda p, *args: nnx.merge(graph, p)(*args)


def from_equinox(make: Callable[[jax.Array], eqx.Module]) -> Pair:
    """Return the functions of the Equinox module that `make` makes."""
    _, static = eqx.partition(make(jax.random.key(0)), eqx.is_array)
    return lambda key: eqx.filter(make(key), eqx.is_array), lambda p, *args: eqx.combine(p, static)(*args)


def from_haiku(fun: Callable[..., Any], *example: Any) -> Pair:
    """Return the functions of a function of Haiku modules that is called with arguments like the example."""
    transformed = hk.without_apply_rng(hk.transform(fun))
    return lambda key: transformed.init(key, *example), transformed.apply
