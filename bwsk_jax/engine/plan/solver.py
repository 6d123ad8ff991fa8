"""How plans are found: the best plan without inverses, then what beats it with them, then what a guard adds.

A limit of overhead is one of time beyond that of the fastest plan, which therefore is found first. On a CPU
it is known: it saves all.

Inverses are what makes the search hard. Without them nothing can be circular, and a thousand equations take
seconds. With them, only what beats the first plan by a margin is looked for: an inverse that merely draws
level is not worth its rounding. Where that search ends early, or there are more steps than it could deal
with, the first plan is improved one saved value at a time.

An inverse that the data may refuse needs a guard and a second schedule. It has to beat the best plan that
needs neither, by a wider margin. The second schedule may recompute more than `max_overhead` allows: it is for
data that are out of the ordinary, such as a scale of 0, and the plan tells how much it is.

The search is bounded by work that is counted, never by a clock, so that the same problem gets the same plan
on every machine. A plan that may not be the best says so in its gap, and a warning is logged.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import time
from collections.abc import Collection, Sequence

from bwsk_jax.engine.plan.milp import Solution, candidates, integer_program, lower_bound, pinned
from bwsk_jax.engine.plan.plan import Limit, Plan, PlanError, check_plan, outgrows
from bwsk_jax.engine.plan.problem import Problem, Step
from bwsk_jax.engine.plan.schedules import derive, entering, ordered, propagate
from bwsk_jax.engine.rules.exactness import Grade

__all__ = ["solve"]

MOST_STEPS = 600
"""A problem with more steps is searched without inverses, which are then tried one at a time. A transformer
layer has about 350 steps."""
MOST_ROUNDS = 5
"""How often inverses that turn out to be avoidable are taken out, and the search begins again."""
MOST_TRIES = 150
"""How many saved values are tried to be inverted instead, one at a time."""
MARGIN = 0.002
"""Overhead that inverses have to save, or the bytes that are worth as much."""
GUARD_MARGIN = 0.02
"""The same for a guard, whose price FLOPs do not show: it reads what it judges several times, and XLA fuses
nothing across the conditional."""
GUARD_BYTES = 0.05
"""What a guard has to save, as a fraction of the residuals' bytes, where recomputation is limited. Once in a
scan its two schedules take up to half of what one iteration's residuals take."""
TIE = 1e-9
"""How far apart two objectives may be, relatively, that differ by no more than the solver's rounding."""
SLOW = 2.0
"""Seconds of planning from which on a line is logged."""

log = logging.getLogger(__name__)


def solve(problems: Sequence[Problem], limit: Limit) -> Plan:
    """Return the best plan within the limit for any one of the problems, as far as the search goes.

    Raises:
      PlanError: the limit is out of reach; the message names the least possible.
      ValueError: no value has one of the names.
    """
    start = time.monotonic()
    _check_names(problems[0], limit)
    least_time = _least_time(tuple(problems))
    timed = limit
    if limit.max_overhead is not None:
        timed = dataclasses.replace(limit, max_overhead=limit.max_overhead + least_time * (1 + TIE))
    found = _search(problems, timed)
    if found is None:
        found = _least_bytes(problems, limit)
    # The search left out steps of the problem that the plan is for.
    whole = next(p for p in problems if p.handed == found.problem.handed)
    found = dataclasses.replace(found, problem=whole, least_time=min(least_time, found.time))
    check_plan(found)
    _tell(found, limit, time.monotonic() - start)
    return found


@functools.lru_cache(maxsize=4)
def _least_time(problems: tuple[Problem, ...]) -> float:
    """The time of the fastest plan that only replays. Where to save takes none, that is to save all."""
    if not problems[0].traffic:
        return 0.0
    found, limit = None, _unlimited(problems, Limit())
    for problem in problems:
        found, _ = _replaying(problem, limit, found)
    plain = [_plain(problem) for problem in problems] if found is None else [found]
    return min(plan.time for plan in plain)


def _plain(problem: Problem) -> Plan:
    """What plain autodiff does: it needs no search."""
    return _realised(problem, Solution(tuple(v for v in problem.targets if v not in problem.free_steps), {}))


def _unlimited(problems: Sequence[Problem], limit: Limit) -> Limit:
    """The same limit for plans of any size, of which the fastest is looked for."""
    any_bytes = sum(sum(problem.bytes.values()) for problem in problems)
    return dataclasses.replace(limit, max_overhead=None, max_bytes=any_bytes)


def _tell(plan: Plan, limit: Limit, seconds: float) -> None:
    """Log a plan that took long to find, and one that may not be the best."""
    size = f"{len(plan.problem.program.equations):,} equations, {len(plan.problem.steps):,} steps"
    if seconds > SLOW:
        log.info("planning took %.1f seconds (%s)", seconds, size)
    if plan.gap:
        what = "memory" if limit.max_bytes is None else "overhead"
        log.warning(
            "planning stopped early (%s): the best plan may take up to %.1f%% less %s than the one found",
            size,
            100 * plan.gap,
            what,
        )


def _search(problems: Sequence[Problem], limit: Limit) -> Plan | None:
    """The best plan that was found, or None if none keeps to the limit."""
    found = _best(problems, limit)
    if found is not None and outgrows(found):
        found = _best([p.without(lambda s: s.amplification > 1) for p in problems], limit)
    return found


def _best(problems: Sequence[Problem], limit: Limit) -> Plan | None:
    """The same, except that its inverses may let rounding grow too far.

    The plan without inverses is the best for any of the problems, and what beats it is looked for in each.
    """
    # A gradient may end as NaN, for a carry that is lost, only where least memory was asked for.
    allowed = [p.without(lambda s: s.conditional) for p in problems] if limit.bounds_overhead else problems
    found, bounds = None, []
    for problem in problems:
        found, bound = _replaying(problem, limit, found)
        bounds.append(bound)
    inverting = [k for k, problem in enumerate(allowed) if any(s.inverts for s in problem.steps)]
    for k in inverting:
        found, bounds[k] = _inverting(allowed[k], limit, found)
    if found is None:
        return None
    found = _judged(found, limit, min(bounds))
    if limit.max_overhead == math.inf:
        return found  # a guard saves no bytes: what runs where it refuses saves as few, and has none
    for k in inverting:
        if len(allowed[k].steps) <= MOST_STEPS:
            found = _guarded(allowed[k], limit, found)
    return found


def _replaying(problem: Problem, limit: Limit, other: Plan | None) -> tuple[Plan | None, float]:
    """The best plan without inverses, or the other one if that is no worse, and a bound of the objective."""
    solution, bound = integer_program(problem.without(lambda s: s.inverts), limit)
    if solution is not None:
        found = _realised(problem, solution)
    elif limit.max_bytes is None and not limit.replay_names:
        found = _plain(problem)
    else:
        return other, bound
    if other is not None and _objective(found, limit) > _objective(other, limit) * (1 - TIE):
        found = other
    return found, bound


def _inverting(problem: Problem, limit: Limit, found: Plan | None) -> tuple[Plan | None, float]:
    """What beats `found` by inverses that need no guard, and a bound of the objective, as far as the search
    goes.
    """
    if len(problem.steps) <= MOST_STEPS:
        return _unguarded(problem, limit, found)
    bound = lower_bound(problem, limit)
    return found and _descended(problem, limit, found, bound), bound


def _unguarded(problem: Problem, limit: Limit, found: Plan | None) -> tuple[Plan | None, float]:
    """What beats `found` by inverses that need no guard: exact ones, and those that nothing else can replace.

    The integer program does not know which can be replaced. Where it uses one that can, the plan without it
    is tried, and then the inverse is left out of the program.
    """
    allowed, bound = problem.without(_needs_guard), 0.0
    for _ in range(MOST_ROUNDS):
        solution, bound = integer_program(allowed, limit, cutoff=_cutoff(found, limit, MARGIN))
        if solution is None:
            break
        wanted = _realised(problem, solution)
        certain = _without_guard(problem, wanted.saved)
        avoidable = {s for s in wanted.steps if s.data_dependent}.difference(certain.steps if certain else ())
        if not avoidable:
            return wanted, bound
        if certain is not None and _keeps_to(limit, certain) and _is_better(certain, found, limit):
            found = certain
        allowed = allowed.without(avoidable.__contains__)
    return found and _descended(problem, limit, found, bound), bound


def _guarded(problem: Problem, limit: Limit, found: Plan) -> Plan:
    """What beats `found` by inverses behind a guard, and has a schedule for where the guard refuses.

    Where the saved values allow no such schedule, the values out of its reach show what is missing: whatever
    is saved outside of them reaches none of them, so one of them has to be saved. That cut goes into the next
    round.
    """
    cutoff = _cutoff(found, limit, GUARD_MARGIN)
    if limit.bounds_overhead:
        cutoff = _objective(found, limit) - GUARD_BYTES
    cuts: list[list[int]] = []
    for _ in range(MOST_ROUNDS):
        solution, _ = integer_program(problem, limit, cuts=cuts, cutoff=cutoff)
        if solution is None:
            break
        wanted = _realised(problem, solution)
        start = entering(problem, wanted.steps)
        certain = derive(problem, wanted.saved, lambda s: not _needs_guard(s), start)
        fallback = ordered(problem, wanted.saved, certain)
        if fallback is not None and propagate(problem, wanted.steps, fallback) is not None:
            guarded = dataclasses.replace(wanted, fallback=fallback, gap=found.gap)
            return guarded if guarded.guarded_steps else dataclasses.replace(guarded, fallback=None)
        at_hand = problem.at_hand.union(wanted.saved, certain)
        cuts.append([v for v in candidates(problem) if v not in at_hand])
    return found


def _descended(problem: Problem, limit: Limit, plan: Plan, bound: float) -> Plan:
    """The plan after each saved value that an inverse can give, the largest first, was dropped where that
    pays. A plan for another problem stays as it is, and so does one that the bound of the objective shows to
    be the best.
    """
    if plan.problem.handed != problem.handed or not _judged(plan, limit, bound).gap:
        return plan
    invertible = set[int]().union(*(s.writes for s in problem.steps if s.inverts)) - pinned(problem, limit)
    tried = sorted(invertible.intersection(plan.saved), key=lambda v: (-problem.bytes[v], v))
    for value in tried[:MOST_TRIES]:
        found = _without_guard(problem, [v for v in plan.saved if v != value])
        if found is not None and _keeps_to(limit, found) and _is_better(found, plan, limit):
            plan = found
    return plan


# --- plans and what they are worth -------------------------------------------------------------------------


def _needs_guard(step: Step) -> bool:
    return step.grade is Grade.GUARDED


def _realised(problem: Problem, solution: Solution) -> Plan:
    """The plan that a solution means."""
    schedule = ordered(problem, solution.saved, solution.chosen)
    assert schedule is not None, "the order of the integer program leaves no derivation circular"
    return Plan(problem, _read_by(problem, solution.saved, schedule), schedule, None)


def _without_guard(problem: Problem, saved: Collection[int]) -> Plan | None:
    """The plan that derives all from these values and inverts only where nothing else leads on, or None."""
    schedule = ordered(problem, saved, derive(problem, saved, lambda s: not _needs_guard(s)))
    if schedule is None or propagate(problem, schedule) is None:
        return None
    return Plan(problem, _read_by(problem, saved, schedule), schedule, None)


def _keeps_to(limit: Limit, plan: Plan) -> bool:
    if limit.max_bytes is not None:
        return plan.saved_bytes <= limit.max_bytes
    return limit.max_overhead is None or plan.time <= limit.max_overhead


def _is_better(plan: Plan, other: Plan | None, limit: Limit) -> bool:
    """Whether it beats the other one by what inverses have to save."""
    return _objective(plan, limit) < _cutoff(other, limit, MARGIN)


def _cutoff(plan: Plan | None, limit: Limit, margin: float) -> float:
    """What an objective has to be below in order to beat the plan by this much overhead."""
    return math.inf if plan is None else _objective(plan, limit) - margin * limit.weights[1]


def _judged(plan: Plan, limit: Limit, bound: float) -> Plan:
    """The plan with its gap to a lower bound of the objective. What the margin leaves open is none."""
    value = _objective(plan, limit)
    gap = (value - MARGIN * limit.weights[1] - bound) / max(abs(value), 1e-12)
    return dataclasses.replace(plan, gap=gap if gap > 1e-5 else 0.0)


def _read_by(problem: Problem, saved: Collection[int], schedule: Sequence[Step]) -> tuple[int, ...]:
    """The saved values that are of any use."""
    read = set(problem.targets).union(*(s.reads for s in schedule))
    return tuple(sorted(v for v in saved if v in read))


def _objective(plan: Plan, limit: Limit) -> float:
    weight_bytes, weight_overhead = limit.weights
    return weight_bytes * plan.saved_bytes / max(plan.residual_bytes, 1) + weight_overhead * plan.time


def _check_names(problem: Problem, limit: Limit) -> None:
    for name in (*limit.save_names, *limit.replay_names):
        if name not in problem.named:
            names = ", ".join(map(repr, sorted(problem.named))) or "none"
            raise ValueError(f"checkpoint_name gives no value the name {name!r}; the names are: {names}")


def _least_bytes(problems: Sequence[Problem], limit: Limit) -> Plan:
    """The plan of least memory, where no other was found and this one keeps to `max_bytes`."""
    least = _search(problems, dataclasses.replace(limit, max_overhead=math.inf, max_bytes=None))
    if least is None:
        raise PlanError(f"the backward pass cannot do without {', '.join(limit.replay_names)} saved")
    if limit.max_bytes is None:
        raise PlanError(_least_overhead(problems, limit))
    max_bytes = limit.max_bytes
    if least.saved_bytes > max_bytes:
        how = "that was found" if least.gap else "possible"
        raise PlanError(
            f"max_bytes={max_bytes:,} is below the least {how}: {least.saved_bytes:,} bytes, "
            f"with {_recomputation(least):.1%} recomputation"
        )
    return dataclasses.replace(least, gap=1.0)


def _least_overhead(problems: Sequence[Problem], limit: Limit) -> str:
    """What to say where values that must not be saved cost more than the limit allows."""
    least = _search(problems, _unlimited(problems, limit))
    assert least is not None, "there is a plan without a limit"
    return (
        f"max_overhead={limit.max_overhead:.3g} is too little for replay_names: to do without them saved "
        f"costs {_recomputation(least):.1%} recomputation"
    )


def _recomputation(plan: Plan) -> float:
    return plan.problem.time(plan.steps)
