"""How plans are found: the best plan without inverses first, and then whatever beats it with them.

Inverses are what makes the search hard. Without them nothing can be circular, and a thousand equations take
seconds. With them, only what beats the first plan is looked for. Where that search ends early, or there are
more steps than it could deal with, the first plan is improved one saved value at a time.

The search is bounded by work that is counted, never by a clock, so that the same problem gets the same plan
on every machine. A plan that may not be the best says so in its gap, and a warning is logged.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Collection, Sequence

from bwsk_jax.engine.plan.milp import Solution, candidates, integer_program, lower_bound
from bwsk_jax.engine.plan.plan import Limit, Plan, PlanError, check_plan, outgrows
from bwsk_jax.engine.plan.problem import Problem, Step
from bwsk_jax.engine.plan.schedules import Tainted, derive, entering, ordered, propagate
from bwsk_jax.engine.rules.exactness import Grade

__all__ = ["solve"]

MOST_STEPS = 600
"""A problem with more steps is searched without inverses, which are then tried one at a time. A transformer
layer has about 350 steps."""
MOST_ROUNDS = 5
"""How often a solution that has no fallback is refined. No layer of the families in `experiments` takes more
than two."""
MOST_TRIES = 150
"""How many saved values are tried to be inverted instead, one at a time."""
SLOW = 2.0
"""Seconds of planning from which on a line is logged."""

log = logging.getLogger(__name__)


def solve(problem: Problem, limit: Limit) -> Plan:
    """Return the best plan within the limit, as far as the search goes.

    Raises:
      PlanError: `max_bytes` is below the least possible, which the message names.
    """
    start = time.monotonic()
    found = _search(problem, limit)
    if found is None:  # only a limit in bytes can be out of reach
        assert limit.max_bytes is not None
        found = _least(problem, limit.max_bytes)
    check_plan(found)
    _tell(found, limit, time.monotonic() - start)
    return found


def _tell(plan: Plan, limit: Limit, seconds: float) -> None:
    """Log a plan that took long to find, and one that may not be the best."""
    size = f"{len(plan.problem.program.equations):,} equations, {len(plan.problem.steps):,} steps"
    if seconds > SLOW:
        log.info("planning took %.1f seconds (%s)", seconds, size)
    if plan.gap:
        what = "memory" if limit.max_bytes is None else "recomputation"
        log.warning(
            "planning stopped early (%s): the best plan may take up to %.1f%% less %s than the one found",
            size,
            100 * plan.gap,
            what,
        )


def _search(problem: Problem, limit: Limit) -> Plan | None:
    """The best plan that was found, or None if none keeps to the limit."""
    found = _solve_guarded(problem, limit)
    if found is not None and outgrows(found):
        found = _solve_guarded(problem.without(lambda s: s.amplification > 1), limit)
    return found


def _solve_guarded(problem: Problem, limit: Limit) -> Plan | None:
    """Solve until the saved values also allow a schedule without guarded inverses.

    When they do not, the values out of that schedule's reach show what is missing: whatever is saved outside
    of them reaches none of them, so one of them has to be saved. That cut goes into the next round.
    """
    replaying = problem.without(lambda s: s.inverts)
    solution, bound = integer_program(replaying, limit, [], math.inf)
    if solution is None and limit.max_bytes is None:  # what plain autodiff does needs no search
        solution = Solution(tuple(v for v in problem.targets if v not in problem.free_steps), {})
    incumbent = _plan(problem, limit, solution, bound)
    if len(replaying.steps) == len(problem.steps):
        return incumbent
    if len(problem.steps) > MOST_STEPS:
        return incumbent and _descended(problem, limit, incumbent, lower_bound(problem, limit))
    cuts: list[list[int]] = []
    bound = 0.0
    for _ in range(MOST_ROUNDS):
        cutoff = math.inf if incumbent is None else _objective(incumbent, limit)
        solution, bound = integer_program(problem, limit, cuts, cutoff)
        if solution is None:
            break
        found = _plan(problem, limit, solution, bound)
        if found is not None:
            return found
        at_hand = problem.at_hand.union(solution.saved)
        at_hand |= _without_guards(problem, solution.saved).keys()
        cuts.append([v for v in candidates(problem) if v not in at_hand])
    return incumbent and _descended(problem, limit, incumbent, bound)


def _descended(problem: Problem, limit: Limit, plan: Plan, bound: float) -> Plan:
    """The plan after each saved value that an inverse can give, the largest first, was dropped where that
    pays. Where the bound of the objective shows that the plan is the best, it stays as it is.
    """
    plan = dataclasses.replace(plan, gap=_gap(_objective(plan, limit), bound))
    if not plan.gap:
        return plan
    invertible = set[int]().union(*(s.writes for s in problem.steps if s.inverts))
    tried = sorted(invertible.intersection(plan.saved), key=lambda v: (-problem.bytes[v], v))
    for value in tried[:MOST_TRIES]:
        saved = tuple(v for v in plan.saved if v != value)
        chosen = derive(problem, saved)
        schedule = ordered(problem, saved, chosen)
        if schedule is None or propagate(problem, schedule) is None:
            continue
        if limit.max_overhead is not None and problem.overhead(schedule) > limit.max_overhead:
            continue
        found = _plan(problem, limit, Solution(saved, chosen), bound)
        if found is not None and _objective(found, limit) < _objective(plan, limit):
            plan = found
    return plan


def _plan(problem: Problem, limit: Limit, solution: Solution | None, bound: float) -> Plan | None:
    """The plan that a solution means, or None if there is no solution or no fallback where it needs one."""
    if solution is None:
        return None
    saved, chosen = solution
    schedule = ordered(problem, saved, chosen)
    assert schedule is not None, "the order of the integer program leaves no derivation circular"
    saved = _read_by(problem, saved, schedule)
    start = entering(problem, schedule)
    fallback = ordered(problem, saved, _without_guards(problem, saved, start))
    if fallback is None or propagate(problem, schedule, fallback) is None:
        return None
    found = Plan(problem, saved, schedule, fallback)
    if not found.guarded_steps:
        found = dataclasses.replace(found, fallback=None)
    return dataclasses.replace(found, gap=_gap(_objective(found, limit), bound))


def _without_guards(
    problem: Problem, saved: Collection[int], start: Tainted | None = None
) -> dict[int, Step]:
    return derive(problem, saved, lambda s: s.grade is not Grade.GUARDED, start)


def _read_by(problem: Problem, saved: Collection[int], schedule: Sequence[Step]) -> tuple[int, ...]:
    """The saved values that are of any use."""
    read = set(problem.targets).union(*(s.reads for s in schedule))
    return tuple(sorted(v for v in saved if v in read))


def _gap(value: float, bound: float) -> float:
    gap = (value - bound) / max(abs(value), 1e-12)
    return gap if gap > 1e-5 else 0.0


def _objective(plan: Plan, limit: Limit) -> float:
    weight_bytes, weight_overhead = limit.weights
    return weight_bytes * plan.saved_bytes / max(plan.residual_bytes, 1) + weight_overhead * plan.overhead


def _least(problem: Problem, max_bytes: int) -> Plan:
    """The plan of least memory, where no other was found and this one keeps to `max_bytes`."""
    least = _search(problem, Limit(max_overhead=math.inf))
    assert least is not None, "without a limit there is always a plan"
    if least.saved_bytes > max_bytes:
        how = "that was found" if least.gap else "possible"
        raise PlanError(
            f"max_bytes={max_bytes:,} is below the least {how}: {least.saved_bytes:,} bytes, "
            f"with {least.overhead:.1%} recomputation"
        )
    return dataclasses.replace(least, gap=1.0)
