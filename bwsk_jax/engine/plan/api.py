"""`plan`, `plan_scan` and `frontier`: what `reversible` and `reversible_scan` are going to do."""

from __future__ import annotations

import collections
import math
import numbers
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax

from bwsk_jax.engine.plan.plan import Limit, Plan, PortablePlan
from bwsk_jax.engine.plan.problem import Problem, call_problem, scan_problems
from bwsk_jax.engine.plan.solver import solve
from bwsk_jax.engine.program.arguments import split_arguments, tracing_explained
from bwsk_jax.engine.program.eager import traced
from bwsk_jax.engine.program.jaxprs import flatten
from bwsk_jax.engine.program.scan_body import trace_body, trace_iteration
from bwsk_jax.engine.program.types import type_of
from bwsk_jax.engine.program.vjp import trace_vjp

__all__ = [
    "Policy",
    "cached_plan",
    "check_save_every",
    "frontier",
    "longest_stretch",
    "plan",
    "plan_for",
    "plan_scan",
    "wanted",
]


def plan(
    fun: Callable,
    *args: Any,
    max_overhead: float | None = None,
    max_bytes: int | None = None,
    save_names: Sequence[str] = (),
    replay_names: Sequence[str] = (),
    invert: bool = True,
) -> Plan:
    """The plan that `reversible(fun)` follows for arguments of these shapes.

    It is for the gradients of all floats, what `fun` closes over included. Where fewer are asked for,
    `reversible` makes another one, which keeps nothing for the others. Given as `plan`, this one serves too.

    Args:
      fun: a differentiable function of pytrees of arrays.
      *args: pytrees of arrays or `jax.ShapeDtypeStruct`s. Leaves that are neither arrays nor numbers are
        static, as for `reversible`.
      max_overhead: how much longer than the fastest plan it may take, as a fraction of one forward and
        backward pass. On a CPU that is recomputation as a fraction of FLOPs; on TPUs and GPUs it takes time
        as well to save a value and read it again. Infinity asks for the least memory.
      max_bytes: bytes that may be saved per call. At most one of the two; neither means `max_overhead=0.03`.
      save_names: values that `jax.ad_checkpoint.checkpoint_name` calls so are saved, if the backward pass
        reads them or something that is derived from them.
      replay_names: values of these names are not saved.
      invert: whether inverses may be used; without them the plan is the best that replaying alone can do.

    Raises:
      PlanError: the limit is out of reach; the message names the least possible.
      ValueError: no value has one of the names.

    >>> import bwsk_jax, jax, jax.numpy as jnp
    >>> x = jax.ShapeDtypeStruct((8, 16), jnp.float32)
    >>> found = bwsk_jax.plan(lambda x: jnp.sin(jnp.exp(x)).sum(), x, max_overhead=float("inf"))
    >>> found.saved_bytes, found.residual_bytes
    (0, 1024)
    """
    limit = Limit(max_overhead, max_bytes, save_names, replay_names)
    leaves, layout = split_arguments(args, {})
    with tracing_explained("bwsk_jax.plan"):
        closed, _ = traced(lambda *leaves: fun(*layout.joined(leaves)[0]), *leaves)
    return cached_plan([call_problem(trace_vjp(flatten(closed, hoist=True)), invert=invert)], limit)


def plan_scan(
    f: Callable,
    init: Any,
    xs: Any = None,
    length: int | None = None,
    reverse: bool = False,
    unroll: int | bool = 1,
    *,
    max_overhead: float | None = None,
    max_bytes: int | None = None,
    save_names: Sequence[str] = (),
    replay_names: Sequence[str] = (),
    save_every: int | None = None,
    invert: bool = True,
) -> Plan:
    """The plan that `reversible_scan` follows for each iteration, given the same arguments.

    It is for the gradients of all floats, as for `plan`.

    Args:
      f, init, xs, length: as for `jax.lax.scan`, with `jax.ShapeDtypeStruct`s in place of arrays if you
        like. The length matters: inverses that would amplify rounding too far in that many iterations are not
        used. Where the leaves of `xs` have no leading axis in common, they are taken for what one iteration
        alone sees, and a `DeprecationWarning` says so.
      reverse, unroll: as for `jax.lax.scan`; the plan is the same for all of them.
      max_overhead, max_bytes, save_names, replay_names, invert: as for `plan`; bytes are counted per
        iteration.
      save_every: as for `reversible_scan`; what bounds errors is then this many iterations.

    Raises:
      TypeError, ValueError: as `reversible_scan` does.
      PlanError: the limit is out of reach.

    >>> import bwsk_jax, jax, jax.numpy as jnp
    >>> half = jax.ShapeDtypeStruct((4, 64), jnp.float32)
    >>> weights = jax.ShapeDtypeStruct((12, 2, 64, 64), jnp.float32)
    >>> def coupling(carry, w):
    ...     a = carry[0] + jnp.tanh(carry[1] @ w[0])
    ...     return (a, carry[1] + jnp.tanh(a @ w[1])), None
    >>> found = bwsk_jax.plan_scan(coupling, (half, half), weights, max_overhead=float("inf"))
    >>> found.saved_bytes, found.inverted > 0
    (0, True)
    """
    limit = Limit(max_overhead, max_bytes, save_names, replay_names)
    check_save_every(save_every)
    return cached_plan(_scan_problems(f, init, xs, (length, reverse, unroll), save_every, invert), limit)


def frontier(
    f: Callable,
    init: Any,
    xs: Any = None,
    length: int | None = None,
    reverse: bool = False,
    unroll: int | bool = 1,
    *,
    save_every: int | None = None,
    invert: bool = True,
    points: int = 8,
) -> list[Plan]:
    """The plans of a scan's iteration from least memory to no overhead, each a best one.

    At most `points` (two or more) distinct plans, at limits spaced evenly in the logarithm of the overhead.
    Along the list `saved_bytes` grows and `overhead` shrinks. The other arguments are those of
    `plan_scan`.

    >>> import bwsk_jax, jax, jax.numpy as jnp
    >>> x = jax.ShapeDtypeStruct((4, 64), jnp.float32)
    >>> w = jax.ShapeDtypeStruct((12, 64, 64), jnp.float32)
    >>> plans = bwsk_jax.frontier(lambda c, w: (jnp.tanh(c @ w) @ w.T, None), x, w)
    >>> [p.saved_bytes for p in plans] == sorted(p.saved_bytes for p in plans)
    True
    """
    check_save_every(save_every)
    if points < 2:
        raise ValueError(f"points must be at least 2, got {points}")
    problems = _scan_problems(f, init, xs, (length, reverse, unroll), save_every, invert)
    found = [cached_plan(problems, Limit(max_overhead=math.inf))]
    most = found[0].overhead
    limits = [most * 2.0**-k for k in range(1, points - 1)] if most > 0 else []
    for limit in (*limits, 0.0):
        if limit < found[-1].overhead:
            plan = cached_plan(problems, Limit(max_overhead=limit))
            if plan.saved_bytes == found[-1].saved_bytes:
                found.pop()  # a guard makes the same bytes cheaper, and least memory has none
            found.append(plan)
    return found


# --- scans -------------------------------------------------------------------------------------------------


def check_save_every(save_every: Any) -> None:
    """Raise `TypeError` or `ValueError` unless it is None or a count of iterations."""
    if save_every is not None and not isinstance(save_every, numbers.Integral):
        raise TypeError(f"save_every must be an integer, got {save_every!r}")
    if save_every is not None and save_every < 1:
        raise ValueError(f"save_every must be at least 1, got {save_every}")


def longest_stretch(length: int, save_every: int | None) -> int:
    """The most iterations that follow each other without a carry that is kept."""
    return max(1, length if save_every is None else min(save_every, length))


def _scan_problems(
    f: Callable, init: Any, xs: Any, order: tuple[Any, Any, Any], save_every: int | None, invert: bool
) -> Sequence[Problem]:
    length, reverse, unroll = order
    if length is None and not _have_a_common_axis(xs):
        warnings.warn(
            "the leaves of xs have no leading axis in common: they are taken for what one iteration sees, "
            "and the plan is for this iteration alone. Pass what reversible_scan takes.",
            DeprecationWarning,
            stacklevel=3,
        )
        scan = trace_iteration(f, init, xs)
    else:
        scan, _ = trace_body(f, init, xs, length, reverse=reverse, unroll=unroll)
    return scan_problems(scan, longest_stretch(scan.length, save_every), invert=invert)


def _have_a_common_axis(xs: Any) -> bool:
    """Whether `jax.lax.scan` could scan over `xs`; if there are no leaves, it says itself what is missing."""
    shapes = [type_of(leaf).shape for leaf in jax.tree.leaves(xs)]
    return all(shapes) and len({shape[0] for shape in shapes}) <= 1


# --- plans that are given, and plans that are found ---------------------------------------------------------


Policy = Callable[..., bool]
"""One of `jax.checkpoint_policies`, in place of a plan."""


def wanted(plan: Plan | PortablePlan | Policy | None, *limit: Any) -> Limit | PortablePlan | Policy:
    """What a caller asks for: the plan or policy that was given, or the best plan within a `Limit` of these
    fields.

    Raises:
      TypeError: the plan is neither plan nor policy, or a limit no number.
      ValueError: both are given, or a limit is negative.
    """
    if plan is None:
        return Limit(*limit)
    if any(value is not None and value != () for value in limit):
        raise ValueError("give a plan or a limit, not both: a plan keeps to the limit that it was made for")
    if not isinstance(plan, (Plan, PortablePlan)) and not callable(plan):
        raise TypeError(
            "plan must be a Plan, what Plan.from_json returns, or one of jax.checkpoint_policies, "
            f"got {type(plan).__name__}"
        )
    return plan.portable if isinstance(plan, Plan) else plan


def plan_for(problems: Sequence[Problem], wanted: Limit | PortablePlan) -> Plan:
    """The plan that was given, checked, or the one that is found, for one of the problems.

    Raises:
      PlanError: the plan is for another problem, or `max_bytes` is below the least possible.
    """
    return wanted.on(*problems) if isinstance(wanted, PortablePlan) else cached_plan(problems, wanted)


_PLANS: collections.OrderedDict[tuple, tuple] = collections.OrderedDict()
_MOST_PLANS = 256


def cached_plan(problems: Sequence[Problem], limit: Limit) -> Plan:
    """`solve`, remembered: the same problems and limit always get the same plan."""
    key = (*(problem.fingerprint() for problem in problems), limit)
    if key not in _PLANS:
        found = solve(problems, limit)
        which = problems.index(found.problem)
        _PLANS[key] = (which, found.saved, found.steps, found.fallback, found.gap, found.least_time)
        while len(_PLANS) > _MOST_PLANS:
            _PLANS.popitem(last=False)
    which, *of_it = _PLANS[key]
    return Plan(problems[which], *of_it)
