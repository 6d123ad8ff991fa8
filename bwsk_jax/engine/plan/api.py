"""`plan`, `plan_scan` and `frontier`: what `reversible` and `reversible_scan` are going to do."""

from __future__ import annotations

import collections
import math
from collections.abc import Callable
from typing import Any

import jax

from bwsk_jax.engine.plan.plan import Limit, Plan
from bwsk_jax.engine.plan.problem import Problem, call_problem, scan_problem
from bwsk_jax.engine.plan.solver import solve
from bwsk_jax.engine.program.jaxprs import trace
from bwsk_jax.engine.program.scan_body import trace_iteration
from bwsk_jax.engine.program.vjp import trace_vjp

__all__ = ["cached_plan", "frontier", "plan", "plan_scan"]


def plan(
    fun: Callable,
    *args: Any,
    max_overhead: float | None = None,
    max_bytes: int | None = None,
    invert: bool = True,
) -> Plan:
    """The plan that `reversible(fun)` follows for arguments of these shapes.

    Args:
      fun: a differentiable function of pytrees of arrays.
      *args: arrays or `jax.ShapeDtypeStruct`s.
      max_overhead: recomputation allowed, as a fraction of the FLOPs of one forward and backward pass.
        Infinity asks for the least memory.
      max_bytes: bytes that may be saved per call. At most one of the two; neither means `max_overhead=0.03`.
      invert: whether inverses may be used; without them the plan is the best that replaying alone can do.

    Raises:
      PlanError: `max_bytes` is below the least possible, which the message names.

    >>> import bwsk_jax, jax, jax.numpy as jnp
    >>> x = jax.ShapeDtypeStruct((8, 16), jnp.float32)
    >>> found = bwsk_jax.plan(lambda x: jnp.sin(jnp.exp(x)).sum(), x, max_overhead=float("inf"))
    >>> found.saved_bytes, found.residual_bytes
    (0, 1024)
    """
    limit = Limit(max_overhead, max_bytes)
    leaves, tree = jax.tree.flatten(args)
    program, _, _ = trace(lambda *leaves: fun(*jax.tree.unflatten(tree, leaves)), *leaves)
    return cached_plan(call_problem(trace_vjp(program), invert=invert), limit)


def plan_scan(
    body: Callable,
    carry: Any,
    x: Any,
    *,
    max_overhead: float | None = None,
    max_bytes: int | None = None,
    length: int = 1,
    invert: bool = True,
) -> Plan:
    """The plan that `reversible_scan` follows for one iteration of `body`.

    Args:
      body: `(carry, x) -> (carry, y)`, as for `jax.lax.scan`.
      carry, x: arrays or `jax.ShapeDtypeStruct`s; `x` is what one iteration sees, without the leading axis.
      max_overhead, max_bytes, invert: as for `plan`; bytes are counted per iteration.
      length: iterations over which errors may grow. Inverses that would amplify rounding too far in that many
        are not used.

    Raises:
      PlanError: `max_bytes` is below the least possible.
      ValueError: a number is too small.

    >>> import bwsk_jax, jax, jax.numpy as jnp
    >>> half = jax.ShapeDtypeStruct((4, 64), jnp.float32)
    >>> weights = jax.ShapeDtypeStruct((2, 64, 64), jnp.float32)
    >>> def coupling(carry, w):
    ...     a = carry[0] + jnp.tanh(carry[1] @ w[0])
    ...     return (a, carry[1] + jnp.tanh(a @ w[1])), None
    >>> found = bwsk_jax.plan_scan(coupling, (half, half), weights, max_overhead=float("inf"))
    >>> found.saved_bytes, found.inverted > 0
    (0, True)
    """
    limit = Limit(max_overhead, max_bytes)
    _check_count("length", length, 1)
    return cached_plan(scan_problem(trace_iteration(body, carry, x), length, invert=invert), limit)


def frontier(
    body: Callable, carry: Any, x: Any, *, length: int = 1, invert: bool = True, points: int = 8
) -> list[Plan]:
    """The plans of one scan iteration from least memory to no recomputation, each a best one.

    At most `points` (two or more) distinct plans, at limits spaced evenly in the logarithm of the
    recomputation. Along the list `saved_bytes` grows and `overhead` shrinks.

    >>> import bwsk_jax, jax, jax.numpy as jnp
    >>> x = jax.ShapeDtypeStruct((4, 64), jnp.float32)
    >>> w = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    >>> plans = bwsk_jax.frontier(lambda c, w: (jnp.tanh(c @ w) @ w.T, None), x, w)
    >>> [p.saved_bytes for p in plans] == sorted(p.saved_bytes for p in plans)
    True
    """
    _check_count("length", length, 1)
    _check_count("points", points, 2)
    problem = scan_problem(trace_iteration(body, carry, x), length, invert=invert)
    found = [cached_plan(problem, Limit(max_overhead=math.inf))]
    most = found[0].overhead
    limits = [most * 2.0**-k for k in range(1, points - 1)] if most > 0 else []
    for limit in (*limits, 0.0):
        if limit < found[-1].overhead:
            found.append(cached_plan(problem, Limit(max_overhead=limit)))
    return found


def _check_count(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


_PLANS: collections.OrderedDict[tuple, tuple] = collections.OrderedDict()
_MOST_PLANS = 256


def cached_plan(problem: Problem, limit: Limit) -> Plan:
    """`solve`, remembered: the same problem and limit always get the same plan."""
    key = (problem.fingerprint(), limit)
    if key not in _PLANS:
        found = solve(problem, limit)
        _PLANS[key] = (found.saved, found.steps, found.fallback, found.gap)
        while len(_PLANS) > _MOST_PLANS:
            _PLANS.popitem(last=False)
    return Plan(problem, *_PLANS[key])
