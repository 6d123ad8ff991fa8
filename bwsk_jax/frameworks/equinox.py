"""Equinox: siblings of `eqx.filter_checkpoint`, and of `jax.lax.scan` for what `eqx.filter_vmap` stacked.

Functions, arguments and results are pytrees of arrays and of anything else, as in Equinox's filtered
transformations: arrays are traced, and all else stays as it is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax

import bwsk_jax.engine.execute.reversible as engine
import bwsk_jax.engine.execute.reversible_scan as engine_scan
from bwsk_jax.frameworks.exchange import refuse

__all__ = ["reversible", "reversible_scan"]


def reversible(fun: Callable | None = None, **limits: Any) -> Any:
    """`eqx.filter_checkpoint` by plan: a function or module whose backward pass saves, inverts or replays.

    What it returns is a module that holds `fun`, so that `eqx.filter_grad` finds its parameters.

    Args:
      fun: a module, a function, or a method that is decorated; without it, what this returns is a decorator.
      limits: those of `bwsk_jax.reversible`.

    Raises:
      TypeError: for `policy` or `prevent_cse`; the message says why.

    >>> import equinox as eqx, jax, jax.numpy as jnp
    >>> block = reversible(eqx.nn.MLP(4, 4, 16, 2, key=jax.random.key(0)), max_overhead=0.1)
    >>> gradient = eqx.filter_grad(lambda block, x: block(x).sum())(block, jnp.ones(4))
    >>> gradient.__wrapped__.layers[0].weight.shape
    (16, 4)
    """
    engine.reversible(**limits)  # says what is wrong with them
    if fun is None:
        return functools.partial(reversible, **limits)
    return eqx.module_update_wrapper(_Reversible(fun, tuple(sorted(limits.items()))))


class _Reversible(eqx.Module):
    """A function with its limits."""

    _fun: Callable
    _limits: tuple[tuple[str, Any], ...] = eqx.field(static=True)

    @property
    def __wrapped__(self):
        return self._fun

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        others = []

        def arrays():
            found, other = eqx.partition(self._fun(*args, **kwargs), eqx.is_array)
            others.append(other)
            return found

        return eqx.combine(engine.reversible(arrays, **dict(self._limits))(), others[-1])

    def __get__(self, instance, owner):
        return self if instance is None else eqx.Partial(self, instance)


def reversible_scan(
    f: Callable,
    init: Any,
    xs: Any = None,
    length: int | None = None,
    reverse: bool = False,
    unroll: int | bool = 1,
    **limits: Any,
) -> tuple[Any, Any]:
    """`bwsk_jax.reversible_scan` of pytrees that hold more than arrays, such as stacked layers.

    Args:
      f: the body `(carry, x) -> (carry, y)`.
      init, xs: as for `jax.lax.scan`; what is no array is the same in every iteration.
      length, reverse, unroll: as for `jax.lax.scan`.
      limits: those of `bwsk_jax.reversible_scan`.

    Raises:
      TypeError: as `bwsk_jax.reversible_scan` does, and if the body changes what is no array in the carry.

    >>> import equinox as eqx, jax, jax.numpy as jnp
    >>> make = lambda key: eqx.nn.MLP(4, 4, 16, 1, activation=jnp.tanh, key=key)
    >>> layers = eqx.filter_vmap(make)(jax.random.split(jax.random.key(0), 3))
    >>> def loss(layers, x):
    ...     x, _ = reversible_scan(lambda x, layer: (x + layer(x), None), x, layers)
    ...     return x.sum()
    >>> eqx.filter_grad(loss)(layers, jnp.ones(4)).layers[0].weight.shape
    (3, 16, 4)
    """
    refuse("reversible_scan", limits)
    first, fixed_carry = eqx.partition(init, eqx.is_array)
    slices, fixed_x = eqx.partition(xs, eqx.is_array)
    others = []

    def body(carry, x):
        carry, y = f(eqx.combine(carry, fixed_carry), eqx.combine(x, fixed_x))
        carry, other_carry = eqx.partition(carry, eqx.is_array)
        _check_unchanged(fixed_carry, other_carry)
        y, other_y = eqx.partition(y, eqx.is_array)
        others.append(other_y)
        return carry, y

    last, ys = engine_scan.reversible_scan(body, first, slices, length, reverse, unroll, **limits)
    return eqx.combine(last, fixed_carry), eqx.combine(ys, others[-1])


def _check_unchanged(before: Any, after: Any) -> None:
    """Raise `TypeError` if two pytrees of anything but arrays differ."""
    (old, old_tree), (new, new_tree) = jax.tree.flatten(before), jax.tree.flatten(after)
    if old_tree == new_tree and all(a is b or a == b for a, b in zip(old, new, strict=True)):
        return
    raise TypeError(
        f"the body of a scan changed what is no array in its carry, {before} to {after}; make it an array"
    )
