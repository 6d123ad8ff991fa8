"""`plan`, `plan_scan` and `frontier`: what `reversible` and `reversible_scan` are going to do."""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax

from bwsk_jax.engine.plan.milp import Limit
from bwsk_jax.engine.plan.problem import Problem, call_problem, scan_problem
from bwsk_jax.engine.plan.solver import Plan, solve
from bwsk_jax.engine.program.jaxprs import Program, trace
from bwsk_jax.engine.program.types import slice_type, stacked_type, type_of
from bwsk_jax.engine.program.vjp import VjpTrace, trace_vjp

__all__ = ["ScanBody", "frontier", "plan", "plan_scan", "solved", "trace_body"]


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
    return solved(call_problem(trace_vjp(program), invert=invert), limit)


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
    scan = trace_one(body, carry, x)
    return solved(scan.problem(length, invert), limit)


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
    problem = trace_one(body, carry, x).problem(length, invert)
    found = [solved(problem, Limit(max_overhead=math.inf))]
    most = found[0].overhead
    limits = [most * 2.0**-k for k in range(1, points - 1)] if most > 0 else []
    for limit in (*limits, 0.0):
        if limit < found[-1].overhead:
            found.append(solved(problem, Limit(max_overhead=limit)))
    return found


def _check_count(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


_SOLVED: collections.OrderedDict[tuple, tuple] = collections.OrderedDict()
_SOLVED_MOST = 256


def solved(problem: Problem, limit: Limit) -> Plan:
    """`solve`, remembered: the same problem and limit always get the same plan."""
    key = (problem.fingerprint(), limit)
    if key not in _SOLVED:
        found = solve(problem, limit)
        _SOLVED[key] = (found.saved, found.steps, found.fallback, found.gap)
        while len(_SOLVED) > _SOLVED_MOST:
            _SOLVED.popitem(last=False)
    return Plan(problem, *_SOLVED[key])


# --- scan bodies
# ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class ScanBody:
    """A scan body as a program of (constants, carry, x) -> (carry, y), all flat.

    `out_avals` are the types that `lax.scan` gives its results, those of the carry first. The constants are
    not part of it: JAX keeps the rules of a derivative longer than a tracer may live.
    """

    program: Program
    out_tree: Any
    out_avals: list[Any]
    num_consts: int
    num_carry: int
    length: int

    @property
    def differentiable_outputs(self) -> tuple[Sequence[bool], Sequence[bool]]:
        """Of the carry and of the outputs per iteration."""
        mask = self.vjp.differentiable_outputs
        return mask[: self.num_carry], mask[self.num_carry :]

    @functools.cached_property
    def vjp(self) -> VjpTrace:
        """One iteration and its VJP."""
        return trace_vjp(self.program)

    def problem(self, length: int, invert: bool) -> Problem:
        """What a plan for one of `length` iterations has to achieve."""
        return scan_problem(self.vjp, self.num_consts, self.num_carry, length, invert=invert)


def trace_body(body: Callable, init: Any, xs: Any, length: int | None) -> tuple[ScanBody, list[Any]]:
    """(the traced body, its constants), after `lax.scan` has checked it by its own means and messages."""
    carry, ys = jax.eval_shape(functools.partial(lax.scan, body, length=length), init, xs)
    carry, carry_tree = jax.tree.flatten(carry)
    out_avals = list(map(type_of, (*carry, *jax.tree.leaves(ys))))
    xs, x_tree = jax.tree.flatten(xs)
    stacked = list(map(type_of, xs))

    def flat(*leaves):
        c, x = leaves[: len(carry)], leaves[len(carry) :]
        return body(jax.tree.unflatten(carry_tree, c), jax.tree.unflatten(x_tree, x))

    program, consts, out_tree = trace(flat, *out_avals[: len(carry)], *map(slice_type, stacked))
    if length is None:
        length = stacked[0].shape[0]
    return ScanBody(program, out_tree, out_avals, len(consts), len(carry), length), consts


def trace_one(body: Callable, carry: Any, x: Any) -> ScanBody:
    stacked = jax.tree.map(lambda a: stacked_type(type_of(a)), x)
    return trace_body(body, carry, stacked, 1)[0]
