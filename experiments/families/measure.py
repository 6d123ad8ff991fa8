"""The gradient of a stack of layers by any of several scans, and what it keeps in memory."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

import bwsk_jax
from bwsk_jax import Plan
from experiments.families.stack import Size, Stack, normal

__all__ = ["SCANS", "abstract", "arguments", "carry_bytes", "concrete", "gradient", "plan", "temp_bytes"]

Build = Callable[[Any, Size], Stack]
SCANS: dict[str, Callable] = {
    "plain": lax.scan,
    "checkpoint": lambda body, init, xs: lax.scan(jax.checkpoint(body), init, xs),
    "default": bwsk_jax.reversible_scan,
    "least": functools.partial(bwsk_jax.reversible_scan, max_overhead=math.inf),
}
FAST_COMPILATION = {"xla_backend_optimization_level": 0}
"""Options that save time on machine code. The buffers are the same at every level of optimization."""


def arguments(stack: Stack) -> tuple[Any, Any]:
    """Return the floats of a stack, which have gradients, and all else that it reads (keys, counts)."""
    return eqx.partition(
        (stack.shared, stack.carry, stack.xs), lambda a: jnp.issubdtype(a.dtype, jnp.inexact)
    )


def gradient(stack: Stack, scan: Callable) -> Callable[[Any, Any], Any]:
    """Return the gradient in `arguments` of a fixed random combination of the final carry and all outputs."""

    def loss(varied, fixed):
        shared, carry, xs = eqx.combine(varied, fixed)
        out = jax.tree.leaves(scan(functools.partial(stack.body, shared), carry, xs))
        return sum(jnp.mean(normal(k, *a.shape) * a.astype(jnp.float32)) for k, a in enumerate(out))

    return jax.grad(loss)


def abstract(build: Build, dtype: Any, size: Size) -> Stack:
    """Return the stack with the types of its values in place of the values."""
    return _built(jax.eval_shape, build, dtype, size)


def concrete(build: Build, dtype: Any, size: Size) -> Stack:
    """Return the stack with its values, which one compiled function draws."""
    return _built(lambda f: jax.jit(f, compiler_options=FAST_COMPILATION)(), build, dtype, size)


def _built(run: Callable, build: Build, dtype: Any, size: Size) -> Stack:
    body = None

    def values():
        nonlocal body
        body, *rest = build(dtype, size)
        return rest

    rest = run(values)
    return Stack(body, *rest)


def temp_bytes(stack: Stack, scan: Callable) -> int:
    """Return the bytes that the compiled gradient needs beside arguments and results, as XLA counts them."""
    compiled = jax.jit(gradient(stack, scan)).lower(*arguments(stack)).compile(FAST_COMPILATION)
    return compiled.memory_analysis().temp_size_in_bytes


def plan(stack: Stack, **options: Any) -> Plan:
    """Return the plan of one layer of the stack."""
    found = None

    def closed_over(shared):
        nonlocal found
        found = bwsk_jax.plan_scan(functools.partial(stack.body, shared), stack.carry, stack.xs, **options)

    jax.eval_shape(closed_over, stack.shared)
    return found


def carry_bytes(stack: Stack) -> int:
    """Return the bytes that `jax.checkpoint` keeps of each layer: its carry."""
    return sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(stack.carry))
