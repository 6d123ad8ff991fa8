"""Plans: what to save, what to run; how they are found and checked.

Inverses are what makes the search hard: without them nothing can be circular and a thousand equations take a
tenth of a second. So the best plan without inverses comes first; with them, only what beats it is looked for,
and where time runs out the better of the two is used and its gap reported.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Collection, Sequence

from bwsk_jax.engine.plan.milp import Limit, candidates, integer_program, weights
from bwsk_jax.engine.plan.problem import Problem, Step, harmless_amplification
from bwsk_jax.engine.plan.schedules import derive, ordered, taint
from bwsk_jax.engine.rules.inverses import Grade

__all__ = ["Plan", "PlanError", "check_plan", "solve"]


TIME_LIMIT = 10.0
"""Seconds that one call of `solve` may look for better plans."""


class PlanError(ValueError):
    """No plan keeps to the limit, or a plan does not do what it has to."""


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """What to save, and the steps that give back the rest.

    Attributes:
      saved_bytes: kept beyond what is known anyway, per call or per iteration.
      residual_bytes: what plain autodiff keeps, counted the same way.
      overhead: recomputation as a fraction of the FLOPs of one forward and backward pass.
      fallback_overhead: the same where the data refuse a guarded inverse.
      inverted: number of inverse steps.
      steps: what the backward pass runs, in order.
      fallback: what it runs instead where the data refuse; None if nothing needs a guard. Its inverses are
        the unavoidable ones: without them the carry could not be had from what is saved.
      risky: the inverses in `steps` that round and that the fallback does without; the guard watches them.
      saved: the numbers of the saved values.
      gap: how far `saved_bytes` (or the overhead) may be from the best, as a fraction; 0 when proven best.
    """

    problem: Problem
    saved: tuple[int, ...]
    steps: tuple[Step, ...]
    fallback: tuple[Step, ...] | None
    gap: float = 0.0

    @property
    def saved_bytes(self) -> int:
        """Bytes kept per call or per iteration."""
        return sum(self.problem.bytes[v] for v in self.saved)

    @property
    def residual_bytes(self) -> int:
        """Bytes that plain autodiff keeps."""
        return self.problem.residual_bytes

    @property
    def overhead(self) -> float:
        """Recomputation of the guarded path."""
        return self.problem.overhead(self.steps)

    @property
    def fallback_overhead(self) -> float:
        """Recomputation of the unguarded path."""
        return self.overhead if self.fallback is None else self.problem.overhead(self.fallback)

    @property
    def inverted(self) -> int:
        """Number of inverse steps."""
        return sum(s.inverts for s in self.steps)

    @functools.cached_property
    def risky(self) -> frozenset[Step]:
        """The inverses that the data can refuse."""
        if self.fallback is None:
            return frozenset()
        return frozenset(s for s in self.steps if s.risky).difference(self.fallback)

    @functools.cached_property
    def inexact(self) -> frozenset[int]:
        """Values that are not bit for bit what the forward pass computed."""
        return frozenset(taint(self.problem, self.steps)["rounded"])

    def __str__(self) -> str:
        """One line per value of the backward pass: how it is had, from which equation and source line."""
        program, wanted = self.problem.program, set(self.problem.targets)
        makers = {v: e for e in program.equations for v in e.outputs}

        def row(v, how, equation):
            aval, mark = program.avals[v], "*" if v in wanted else " "
            name, line = (str(equation.primitive), equation.line) if equation else ("argument", "")
            shape, size = aval.str_short(short_dtypes=True), f"{self.problem.bytes[v]:,}"
            return (f"{mark}{v}", shape, size, how, name, line)

        rows = [row(v, "saved", makers.get(v)) for v in self.saved]
        for s in self.steps:
            how = f"inverted ({s.grade.value})" if s.inverts else "replayed"
            rows += [row(v, how, program.equations[s.equation]) for v in s.writes]
        head = ("value", "shape", "bytes", "how", "equation", "source")
        widths = [max(len(r[k]) for r in (head, *rows)) for k in range(len(head))]
        table = "\n".join(
            "  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in (head, *rows)
        )
        fallback = "" if self.fallback is None else f" ({self.fallback_overhead:.2%} where a guard refuses)"
        gap = f", within {self.gap:.1%} of the best" if self.gap else ""
        return (
            f"saves {self.saved_bytes:,} of {self.residual_bytes:,} bytes, "
            f"recomputes {self.overhead:.2%}{fallback}, {self.inverted} inverse steps{gap}\n"
            f"{table}\n(* is read by the backward pass or starts the next iteration)"
        )


def check_plan(plan: Plan) -> None:
    """Raise `PlanError` unless every step reads only what is known by then, nothing inexact is used where
    that could be seen, and all targets are known at the end. Independent of how the plan was found."""
    for name, schedule in (("steps", plan.steps), ("fallback", plan.fallback)):
        if schedule is None:
            continue
        known = set(plan.problem.free) | set(plan.saved)
        for step in schedule:
            missing = [v for v in step.reads if v not in known]
            if missing:
                equation = plan.problem.program.equations[step.equation]
                raise PlanError(
                    f"{name}: {equation.primitive} at {equation.line} reads {missing}, not known by then"
                )
            known.update(step.writes)
        missing = [v for v in plan.problem.targets if v not in known]
        if missing:
            raise PlanError(f"{name}: the backward pass needs {missing}, which no step gives")
        if taint(plan.problem, schedule) is None:
            raise PlanError(f"{name}: a recovered value is used where its rounding would show")
    unguarded = plan.steps if plan.fallback is None else plan.fallback
    if any(s.grade is Grade.GUARDED for s in unguarded):
        raise PlanError("an inverse that needs a guard is used without one")


# --- solving -----------------------------------------------------------------------------------------------


def solve(problem: Problem, limit: Limit) -> Plan:
    """The best plan within the limit.

    Raises:
      PlanError: `max_bytes` is below the least possible, which the message names.
    """
    deadline = time.monotonic() + TIME_LIMIT
    found = _solve_guarded(problem, limit, deadline)
    if found is not None and _chain_amplification(found) ** problem.length > _limit_of(problem):
        found = _solve_guarded(problem.without(lambda s: s.amplification > 1), limit, deadline)
    if found is None:
        found = _least(problem, limit)
    check_plan(found)
    return found


def _limit_of(problem: Problem) -> float:
    sizes = [problem.program.avals[v].dtype for v in problem.carry_in if problem.float_size(v)]
    return min(map(harmless_amplification, sizes), default=math.inf)


def _chain_amplification(plan: Plan) -> float:
    """By how much constants multiply an error of the carry-out on its way to the carry-in."""
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
        solution = [v for v in problem.targets if v not in problem.trivial], {}
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
        at_hand = problem.free.union(problem.trivial, solution[0])
        at_hand |= _without_guards(problem, solution[0]).keys()
        cuts.append([v for v in candidates(problem) if v not in at_hand])
    return incumbent and dataclasses.replace(incumbent, gap=_gap(_objective(incumbent, limit), bound))


def _plan(problem: Problem, limit: Limit, solution, bound: float) -> Plan | None:
    """The plan that a solution means, or None if there is no solution or no fallback where it needs one."""
    if solution is None:
        return None
    saved, chosen = solution
    schedule = ordered(problem, saved, chosen)
    saved = _read_by(problem, saved, schedule)
    fallback = ordered(problem, saved, _without_guards(problem, saved))
    if fallback is None:
        return None
    found = Plan(problem, saved, schedule, fallback)
    if not found.risky:
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
    weight_bytes, weight_overhead = weights(limit)
    return weight_bytes * plan.saved_bytes / max(plan.residual_bytes, 1) + weight_overhead * plan.overhead


def _least(problem: Problem, limit: Limit) -> Plan:
    """The plan of least memory, where nothing else was found under `max_bytes` and this one keeps to it."""
    least = solve(problem, Limit(max_overhead=math.inf))
    if least.saved_bytes > limit.max_bytes:
        raise PlanError(
            f"max_bytes={limit.max_bytes:,} is below the least possible: {least.saved_bytes:,} bytes, "
            f"with {least.overhead:.1%} recomputation"
        )
    return dataclasses.replace(least, gap=1.0)
