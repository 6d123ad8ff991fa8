"""Haiku: siblings of `hk.remat`, `hk.scan` and `hk.layer_stack`.

Parameters, state and keys go in and out as they do in Haiku's own transformations. Haiku exports no way to
lift a transformation that it does not know, so the one that it lifts its own with is taken from its insides.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import haiku as hk
from haiku._src.base import inside_transform
from haiku._src.stateful import thread_hk_state_in_kwargs

import bwsk_jax.engine.execute.reversible as engine
from bwsk_jax.frameworks.exchange import Run, loops_reversible, split_limits

__all__ = ["reversible", "reversible_layer_stack", "reversible_scan"]


def reversible(
    fun: Callable | None = None, *, static_argnums: Any = (), static_argnames: Any = (), **limits: Any
) -> Any:
    """`hk.remat` by plan: a function of modules whose backward pass saves, inverts or replays.

    Args:
      fun: a module or a function; without it, what this returns is a decorator.
      static_argnums, static_argnames: taken as `hk.remat` takes them, and needed for nothing: arguments that
        are no arrays, such as `train=True`, stay as they are.
      limits: those of `bwsk_jax.reversible`.

    Raises:
      TypeError: for `policy` or `prevent_cse`; the message says why.

    >>> import haiku as hk, jax, jax.numpy as jnp
    >>> network = hk.transform(lambda x: reversible(hk.Linear(3), max_overhead=0.1)(x))
    >>> parameters = network.init(jax.random.key(0), jnp.ones((2, 4)))
    >>> jax.tree.map(jnp.shape, parameters)
    {'linear': {'b': (3,), 'w': (4, 3)}}
    """
    run = engine.reversible(**limits)
    if fun is None:
        return functools.partial(reversible, **limits)

    @functools.wraps(fun)
    def wrapped(*args, **kwargs):
        return _lifted(fun, run)(*args, **kwargs)

    return wrapped


def reversible_scan(
    f: Callable,
    init: Any,
    xs: Any,
    length: int | None = None,
    reverse: bool = False,
    unroll: int | bool = 1,
    **limits: Any,
) -> tuple[Any, Any]:
    """`hk.scan` whose backward pass recovers each iteration from the one after it.

    Args:
      f, init, xs, length, reverse, unroll: as for `hk.scan`.
      limits: those of `bwsk_jax.reversible_scan`.

    >>> import haiku as hk, jax, jax.numpy as jnp
    >>> def recurrent(xs):
    ...     linear = hk.Linear(3)
    ...     return reversible_scan(lambda h, x: (jnp.tanh(linear(h) + x), None), jnp.zeros(3), xs)[0]
    >>> network = hk.transform(recurrent)
    >>> parameters = network.init(jax.random.key(0), jnp.ones((5, 3)))
    >>> jax.grad(lambda p: network.apply(p, None, jnp.ones((5, 3))).sum())(parameters)["linear"]["w"].shape
    (3, 3)
    """
    loop = functools.partial(hk.scan, length=length, reverse=reverse, unroll=unroll)
    return _lifted(loop, loops_reversible(**limits))(f, init, xs)


def reversible_layer_stack(
    num_layers: int,
    with_per_layer_inputs: bool = False,
    unroll: int = 1,
    **arguments: Any,
) -> Callable[[Callable], Callable]:
    """`hk.layer_stack` whose backward pass recovers each layer's input from its output.

    Args:
      num_layers, with_per_layer_inputs, unroll: as for `hk.layer_stack`.
      arguments: the others of `hk.layer_stack`, by their names, and beside them the limits of
        `bwsk_jax.reversible_scan`: `max_overhead`, `max_bytes`, `save_names`, `replay_names`, `save_every`,
        `invert` and `plan`.

    >>> import haiku as hk, jax, jax.numpy as jnp
    >>> layer = lambda x: x + jnp.tanh(hk.Linear(4)(x))
    >>> network = hk.transform(lambda x: reversible_layer_stack(3)(layer)(x))
    >>> parameters = network.init(jax.random.key(0), jnp.ones((2, 4)))
    >>> [p["w"].shape for p in parameters.values()]
    [(3, 4, 4)]
    """
    limits, of_layer_stack = split_limits(arguments)
    run = loops_reversible(**limits)
    stack = hk.layer_stack(num_layers, with_per_layer_inputs, unroll, **of_layer_stack)
    return lambda f: _lifted(stack(f), run)


def _lifted(fun: Callable, run: Run) -> Callable:
    """`fun` of the state of a Haiku transform and of arguments, evaluated by `run`."""
    evaluated = lambda f: lambda *args, **kwargs: run(functools.partial(f, *args, **kwargs))()
    return thread_hk_state_in_kwargs(evaluated)(fun) if inside_transform() else evaluated(fun)
