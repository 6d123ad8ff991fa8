"""Flax Linen: siblings of `nn.remat`, `nn.scan` and `nn.remat_scan`.

They are lifted by `flax.core.lift`, so that collections of variables, keys and flags go in and out as they do
in Flax's own. A transformed module's class is named as Flax names it (`CheckpointBlock`, `ScanBlock`), and so
are its parameters: a model can change from one to the other and keep them.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
from flax.core import lift
from flax.linen.transforms import lift_transform

import bwsk_jax.engine.execute.reversible as engine
from bwsk_jax.frameworks.exchange import Run, loops_reversible, refuse, split_limits

__all__ = ["reversible", "reversible_remat_scan", "reversible_scan"]


def reversible(
    target: Any = None,
    variables: Any = True,
    rngs: Any = True,
    static_argnums: int | Sequence[int] = (),
    methods: Any = None,
    **limits: Any,
) -> Any:
    """`nn.remat` by plan: a Linen module, or a method of one, whose backward pass saves, inverts or replays.

    Collections that change inside, such as the statistics of a batch norm, come back, and dropout draws what
    it draws without this.

    Args:
      target: a class of modules, a function of a module, or a method that is decorated; without it, what
        this returns is a decorator.
      variables, rngs, methods: as for `nn.remat`.
      static_argnums: taken as `nn.remat` takes it, and needed for nothing: arguments that are no arrays, such
        as `train=True`, stay as they are.
      limits: those of `bwsk_jax.reversible`.

    Raises:
      TypeError: for `policy`, `prevent_cse` or `concrete`; the message says why.

    >>> import flax.linen as nn, jax, jax.numpy as jnp
    >>> class Network(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, x):
    ...         return reversible(nn.Dense, max_overhead=0.1)(8)(x)
    >>> parameters = Network().init(jax.random.key(0), jnp.ones((2, 4)))
    >>> jax.tree.map(jnp.shape, parameters)
    {'params': {'CheckpointDense_0': {'bias': (8,), 'kernel': (4, 8)}}}
    """
    run = engine.reversible(**limits)
    if target is None:
        return functools.partial(reversible, variables=variables, rngs=rngs, methods=methods, **limits)

    @functools.wraps(lift.checkpoint)
    def transform(fn):
        return _lifted(fn, run, variables, rngs)

    return lift_transform(transform, target, methods=methods)


def reversible_scan(target: Any, **arguments: Any) -> Any:
    """`nn.scan` whose backward pass recovers each iteration from the one after it.

    Args:
      target: a class of modules, or a function `(module, carry, *xs) -> (carry, ys)`.
      arguments: those of `nn.scan`, by their names, and beside them the limits of `bwsk_jax.reversible_scan`:
        `max_overhead`, `max_bytes`, `save_names`, `replay_names`, `save_every`, `invert` and `plan`.

    Raises:
      TypeError: for `_split_transpose`, and as `nn.scan` does.

    >>> import flax.linen as nn, jax, jax.numpy as jnp
    >>> class Layer(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, x, _):
    ...         return x + nn.tanh(nn.Dense(4)(x)), None
    >>> class Network(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, x):
    ...         axes, keys = {"params": 0}, {"params": True}
    ...         layers = reversible_scan(Layer, variable_axes=axes, split_rngs=keys, length=3)
    ...         return layers()(x, None)[0]
    >>> parameters = Network().init(jax.random.key(0), jnp.ones((2, 4)))
    >>> jax.tree.map(jnp.shape, parameters)
    {'params': {'ScanLayer_0': {'Dense_0': {'bias': (3, 4), 'kernel': (3, 4, 4)}}}}
    """
    limits, of_scan = split_limits(arguments)
    refuse("reversible_scan", of_scan)
    inspect.signature(nn.scan).bind(target, **of_scan)
    run = loops_reversible(**limits)

    @functools.wraps(lift.scan)
    def transform(fn, **how):
        return _lifted(lift.scan(fn, **how), run)

    methods = of_scan.pop("methods", None)
    return lift_transform(transform, target, methods=methods, **of_scan)


def reversible_remat_scan(target: Any, lengths: Sequence[int], **arguments: Any) -> Any:
    """`nn.remat_scan`: a module repeated `prod(lengths)` times, by loops in loops that are all reversible.

    One length is usually enough, because a reversible loop keeps little by itself. With several, the backward
    pass of an outer loop runs the inner one again, or keeps what that keeps, as its plan says.

    Args:
      target: a class of modules, or a function of a module and a carry, that returns the next carry.
      lengths: how often each loop runs, the outermost first.
      arguments: `variable_broadcast`, `variable_carry`, `variable_axes` and `split_rngs` as for
        `nn.remat_scan`, and the limits of `bwsk_jax.reversible_scan`, as for `reversible_scan` here.

    Raises:
      TypeError: for `policy`; the message says why.
      ValueError: `lengths` is empty.

    >>> import flax.linen as nn, jax, jax.numpy as jnp
    >>> class Network(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, x):
    ...         return reversible_remat_scan(nn.Dense, lengths=(2, 3))(4)(x)
    >>> parameters = Network().init(jax.random.key(0), jnp.ones((2, 4)))
    >>> jax.tree.map(jnp.shape, parameters)
    {'params': {'Remat_scanDense_0': {'bias': (2, 3, 4), 'kernel': (2, 3, 4, 4)}}}
    """
    limits, of_remat_scan = split_limits(arguments)
    refuse("reversible_remat_scan", of_remat_scan)
    inspect.signature(nn.remat_scan).bind(target, lengths, **of_remat_scan)
    if not lengths:
        raise ValueError("lengths must name at least one loop, got none")
    run = loops_reversible(**limits)

    def repeated(fn, lengths, how):
        inner = fn if len(lengths) == 1 else repeated(fn, lengths[1:], how)
        body = lambda scope, carry: (inner(scope, carry), ())
        loop = _lifted(lift.scan(body, length=lengths[0], **how), run)
        return lambda scope, carry: loop(scope, carry)[0]

    @functools.wraps(lift.remat_scan)
    def transform(fn, variable_axes={True: 0}, split_rngs={True: True}, **others):  # noqa: B006
        return repeated(fn, lengths, {"variable_axes": variable_axes, "split_rngs": split_rngs, **others})

    return lift_transform(transform, target, **of_remat_scan)


def _lifted(fn: Callable[..., Any], run: Run, variables: Any = True, rngs: Any = True) -> Callable[..., Any]:
    """`fn` of a scope and arguments, evaluated by `run`."""

    def inner(scope_of, repacked, variable_groups, rng_groups, *args, **kwargs):
        def pure():
            scope = scope_of(variable_groups, rng_groups)
            return fn(scope, *args, **kwargs), repacked(scope)

        return run(pure)()

    return lift.pack(inner, (variables,), (variables,), (rngs,), name="reversible", enable_kwargs=True)
