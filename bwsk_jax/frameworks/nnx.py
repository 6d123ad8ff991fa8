"""Flax NNX: siblings of `nnx.remat` and `nnx.scan`.

Modules among the arguments go in as their states, and come back as what the call made of them: means of batch
norms and counters of dropout move on as they do without this.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from flax import nnx
from flax.nnx.transforms.general import merge_inputs, split_inputs

import bwsk_jax.engine.execute.reversible as engine
from bwsk_jax.frameworks.exchange import Run, loops_reversible, refuse, split_limits

__all__ = ["reversible", "reversible_scan"]


def reversible(
    f: Callable | None = None,
    *,
    static_argnums: int | Sequence[int] = (),
    graph: bool | None = None,
    graph_updates: bool | None = None,
    **limits: Any,
) -> Any:
    """`nnx.remat` by plan: a function of modules whose backward pass saves, inverts or replays.

    Args:
      f: a function, a module or a method of one; without it, what this returns is a decorator.
      static_argnums: taken as `nnx.remat` takes it, and needed for nothing: arguments that are no arrays,
        such as `train=True`, stay as they are.
      graph, graph_updates: taken as `nnx.remat` takes them, and needed for nothing: modules go in and come
        back as graphs, which serves all of its modes.
      limits: those of `bwsk_jax.reversible`.

    Raises:
      TypeError: for `policy` or `prevent_cse`; the message says why.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> layer = nnx.BatchNorm(4, momentum=0.5, rngs=nnx.Rngs(0))
    >>> loss = lambda layer, x: reversible(layer)(x).sum()
    >>> gradient = nnx.grad(loss)(layer, jnp.ones((2, 4)))
    >>> layer.mean[...].tolist()
    [0.5, 0.5, 0.5, 0.5]
    """
    run = engine.reversible(**limits)
    if f is None:
        return functools.partial(reversible, **limits)
    return _lifted(f, run)


def reversible_scan(f: Callable | None = None, **arguments: Any) -> Any:
    """`nnx.scan` whose backward pass recovers each iteration from the one after it.

    Args:
      f: the body, as for `nnx.scan`; without it, what this returns is a decorator.
      arguments: those of `nnx.scan`, by their names, and beside them those of `bwsk_jax.reversible_scan`:
        `max_overhead`, `max_bytes`, `save_names`, `replay_names`, `save_every`, `invert` and `plan`.

    Raises:
      TypeError: for `_split_transpose`, and as `nnx.scan` does.

    >>> import jax, jax.numpy as jnp
    >>> from flax import nnx
    >>> make = nnx.split_rngs(splits=3)(nnx.vmap(lambda rngs: nnx.Linear(4, 4, rngs=rngs)))
    >>> layers = make(nnx.Rngs(0))
    >>> @reversible_scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
    ... def forward(x, layer):
    ...     return x + jnp.tanh(layer(x))
    >>> gradient = nnx.grad(lambda layers, x: forward(x, layers).sum())(layers, jnp.ones((2, 4)))
    >>> gradient["kernel"].shape
    (3, 4, 4)
    """
    limits, of_scan = split_limits(arguments)
    refuse("reversible_scan", of_scan)
    run = loops_reversible(**limits)
    if f is None:
        return functools.partial(reversible_scan, **arguments)
    return _lifted(nnx.scan(f, **of_scan), run)


def _lifted(f: Callable, run: Run) -> Callable:
    """`f` of modules and other arguments, evaluated by `run`."""
    if inspect.ismethod(f):
        return functools.partial(_lifted(f.__func__, run), f.__self__)
    if isinstance(f, nnx.Module):
        return functools.partial(_lifted(type(f).__call__, run), f)
    pure = merge_inputs(lambda args, kwargs: f(*args, **kwargs), ctxtag="reversible")
    lifted = split_inputs(lambda *states: run(functools.partial(pure, *states))(), ctxtag="reversible")

    @functools.wraps(f)
    def wrapped(*args, **kwargs):
        return lifted(args, kwargs)

    return wrapped
