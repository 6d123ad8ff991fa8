"""How plans are found: the best plan without inverses first, and then whatever beats it with them.

Inverses are what makes the search hard. Without them nothing can be circular, and a thousand equations take a
tenth of a second. With them, only what beats the first plan is looked for; where time runs out the better of
the two is used, and its gap is reported.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Collection, Sequence

from bwsk_jax.engine.plan.milp import Solution, candidates, integer_program
from bwsk_jax.engine.plan.plan import Limit, Plan, PlanError, check_plan
from bwsk_jax.engine.plan.problem import Problem, Step, harmless_amplification
from bwsk_jax.engine.plan.schedules import derive, ordered, propagate
from bwsk_jax.engine.program.types import is_differentiable
from bwsk_jax.engine.rules.exactness import Grade

__all__ = ["solve"]

TIME_LIMIT = 10.0
"""Seconds that one call of `solve` may look for better plans."""


def solve(problem: Problem, limit: Limit) -> Plan:
    """Return the best plan within the limit.

    Raises:
      PlanError: `max_bytes` is below the least possible, which the message names.
    """
    deadline = time.monotonic() + TIME_LIMIT
    found = _solve_guarded(problem, limit, deadline)
    if found is not None and _chain_amplification(found) ** problem.length > _limit_of(problem):
        found = _solve_guarded(problem.without(lambda s: s.amplification > 1), limit, deadline)
    if found is None:  # only a limit in bytes can be out of reach
        assert limit.max_bytes is not None
        found = _least(problem, limit.max_bytes)
    check_plan(found)
    return found


def _limit_of(problem: Problem) -> float:
    """By how much an error of the carry may grow over all iterations."""
    types = [problem.program.avals[v] for v in problem.carry_in]
    return min((harmless_amplification(t.dtype) for t in types if is_differentiable(t)), default=math.inf)


def _chain_amplification(plan: Plan) -> float:
    """By how much constants multiply an error of the carry on its way through one iteration backwards."""
    worst: dict[int, float] = {}
    for step in plan.steps:
        before = max((worst.get(v, 1.0) for v in step.reads), default=1.0)
        worst.update(dict.fromkeys(step.writes, before * step.amplification if step.inverts else before))
    return max((worst.get(v, 1.0) for v in plan.problem.carry_in), default=1.0)


def _solve_guarded(problem: Problem, limit: Limit, deadline: float) -> Plan | None:
    """Solve until the saved values also allow a schedule without guarded inverses.

    When they do not, the values out of that schedule's reach show what is missing: whatever is saved outside
    of them reaches none of them, so one of them has to be saved. That cut goes into the next round.
    """
    replaying = problem.without(lambda s: s.inverts)
    solution, bound = integer_program(replaying, limit, [], deadline, math.inf)
    if solution is None and limit.max_bytes is None:  # out of time: what plain autodiff does needs no search
        solution = Solution(tuple(v for v in problem.targets if v not in problem.free_steps), {})
    incumbent = _plan(problem, limit, solution, bound)
    if len(replaying.steps) == len(problem.steps):
        return incumbent
    cuts: list[list[int]] = []
    bound = 0.0
    while time.monotonic() < deadline:
        cutoff = math.inf if incumbent is None else _objective(incumbent, limit)
        solution, bound = integer_program(problem, limit, cuts, deadline, cutoff)
        if solution is None:
            break
        found = _plan(problem, limit, solution, bound)
        if found is not None:
            return found
        at_hand = problem.at_hand.union(solution.saved)
        at_hand |= _without_guards(problem, solution.saved).keys()
        cuts.append([v for v in candidates(problem) if v not in at_hand])
    return incumbent and dataclasses.replace(incumbent, gap=_gap(_objective(incumbent, limit), bound))


def _plan(problem: Problem, limit: Limit, solution: Solution | None, bound: float) -> Plan | None:
    """The plan that a solution means, or None if there is no solution or no fallback where it needs one."""
    if solution is None:
        return None
    saved, chosen = solution
    schedule = ordered(problem, saved, chosen)
    assert schedule is not None, "the order of the integer program leaves no derivation circular"
    saved = _read_by(problem, saved, schedule)
    fallback = ordered(problem, saved, _without_guards(problem, saved))
    if fallback is None or propagate(problem, fallback) is None:
        return None
    found = Plan(problem, saved, schedule, fallback)
    if not found.guarded_steps:
        found = dataclasses.replace(found, fallback=None)
    return dataclasses.replace(found, gap=_gap(_objective(found, limit), bound))


def _without_guards(problem: Problem, saved: Collection[int]) -> dict[int, Step]:
    return derive(problem, saved, lambda s: s.grade is not Grade.GUARDED)


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
    least = solve(problem, Limit(max_overhead=math.inf))
    if least.saved_bytes > max_bytes:
        raise PlanError(
            f"max_bytes={max_bytes:,} is below the least possible: {least.saved_bytes:,} bytes, "
            f"with {least.overhead:.1%} recomputation"
        )
    return dataclasses.replace(least, gap=1.0)
