"""Choose, value by value, whether the backward pass saves, inverts or replays: a small integer program.

Binary *save* per value, binary *use* per step of the derivation graph, and an order per value so that no
derivation is circular. Under `max_overhead` the program minimises `saved_bytes + WEIGHT * residual_bytes *
overhead`; the second term only breaks near-ties (without it the last half percent of memory costs a third of
the recomputation), and because it is fixed, a looser limit never saves more bytes. Under `max_bytes` it
minimises the overhead. HiGHS solves it (Q. Huangfu and J. A. J. Hall, *Math. Prog. Comp.* 10, 2018).

Inverses are what makes the program hard: without them nothing can be circular and a thousand equations take a
tenth of a second. So the best plan without inverses comes first; with them, only what beats it is looked for,
and where time runs out the better of the two is used and its gap reported.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import time
from collections.abc import Collection, Sequence

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from bwsk_jax.engine.problem import Problem, Step, derive, harmless_amplification, ordered, taint
from bwsk_jax.engine.rules import Grade

__all__ = ["DEFAULT_OVERHEAD", "Limit", "Plan", "PlanError", "check_plan", "solve"]

DEFAULT_OVERHEAD = 0.03
WEIGHT = 0.005
TIME_LIMIT = 10.0
"""Seconds that one call of `solve` may look for better plans."""
GAP = 1e-8
"""Relative; a coarser one would let a looser limit save a few bytes more."""
SCALE = 100.0
"""Of the objective, so that HiGHS's absolute gap of 1e-6 does not end the search before the relative one."""


class PlanError(ValueError):
    """No plan keeps to the limit, or a plan does not do what it has to."""


@dataclasses.dataclass(frozen=True)
class Limit:
    """At most one of the two: recomputation as a fraction of forward plus backward, or bytes saved."""

    max_overhead: float | None = None
    max_bytes: int | None = None

    def __post_init__(self):
        if self.max_overhead is not None and self.max_bytes is not None:
            raise ValueError("give max_overhead or max_bytes, not both: one is minimised under the other")
        if self.max_overhead is None and self.max_bytes is None:
            object.__setattr__(self, "max_overhead", DEFAULT_OVERHEAD)
        for name in ("max_overhead", "max_bytes"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ValueError(f"{name} must not be negative, got {value}")


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

    @property
    def risky(self) -> tuple[Step, ...]:
        """The inexact steps that the data can refuse."""
        if self.fallback is None:
            return ()
        return tuple(s for s in self.steps if not s.exact and s not in self.fallback)

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
    incumbent = _plan(problem, limit, *_integer_program(replaying, limit, [], deadline, math.inf))
    if len(replaying.steps) == len(problem.steps):
        return incumbent
    cuts: list[list[int]] = []
    bound = 0.0
    while time.monotonic() < deadline:
        cutoff = math.inf if incumbent is None else _objective(incumbent, limit)
        solution, bound = _integer_program(problem, limit, cuts, deadline, cutoff)
        if solution is None:
            break
        found = _plan(problem, limit, solution, bound)
        if found is not None:
            return found
        at_hand = problem.free.union(problem.trivial, solution[0])
        at_hand |= _without_guards(problem, solution[0]).keys()
        cuts.append([v for v in _values(problem) if v not in at_hand])
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
    avoidable = any(not s.exact and s not in fallback for s in schedule)
    found = Plan(problem, saved, schedule, fallback if avoidable else None)
    return dataclasses.replace(found, gap=_gap(_objective(found, limit), bound))


def _without_guards(problem: Problem, saved: Collection[int]) -> dict[int, Step]:
    return derive(problem, saved, lambda s: s.grade is not Grade.GUARDED)


def _read_by(problem: Problem, saved: Collection[int], schedule: Sequence[Step]) -> tuple[int, ...]:
    """The saved values that are of any use."""
    read = set(problem.targets).union(*(s.reads for s in schedule))
    return tuple(sorted(v for v in saved if v in read))


def _values(problem: Problem) -> list[int]:
    """The values that can be saved or derived, in order."""
    at_hand = problem.free.union(problem.trivial)
    found = set(problem.targets).union(*((*s.reads, *s.writes) for s in problem.steps))
    return sorted(found - at_hand)


def _gap(value: float, bound: float) -> float:
    gap = (value - bound) / max(abs(value), 1e-12)
    return gap if gap > 1e-5 else 0.0


def _objective(plan: Plan, limit: Limit) -> float:
    weight_bytes, weight_overhead = _weights(limit)
    return weight_bytes * plan.saved_bytes / max(plan.residual_bytes, 1) + weight_overhead * plan.overhead


def _weights(limit: Limit) -> tuple[float, float]:
    return (1.0, WEIGHT) if limit.max_bytes is None else (1e-6, 1.0)


class _Rows:
    """Sparse constraints `low <= row @ x`, written one at a time."""

    def __init__(self):
        self.entries, self.low = [], []

    def add(self, terms: dict[int, float], low: float):
        self.entries += [(len(self.low), column, value) for column, value in terms.items()]
        self.low.append(low)

    def build(self, columns: int) -> LinearConstraint:
        rows, cols, values = zip(*self.entries, strict=True)
        return LinearConstraint(
            coo_array((values, (rows, cols)), (len(self.low), columns)).tocsr(), self.low, np.inf
        )


def _integer_program(problem: Problem, limit: Limit, cuts: list[list[int]], deadline: float, cutoff: float):
    """((saved, step by value), lower bound): the first is None if nothing beats `cutoff` or time ran out."""
    values, steps = _values(problem), list(problem.steps)
    if not problem.targets:
        return ((), {}), 0.0
    at_hand = problem.free.union(problem.trivial)
    reads = [[v for v in s.reads if v not in at_hand] for s in steps]
    writes = [[v for v in s.writes if v not in at_hand] for s in steps]
    save = {v: k for k, v in enumerate(values)}
    use = [len(values) + k for k in range(len(steps))]
    order = {v: len(values) + len(steps) + k for k, v in enumerate(values)}
    columns = 2 * len(values) + len(steps)
    writers: dict[int, list[int]] = {v: [] for v in values}
    for k in range(len(steps)):
        for v in writes[k]:
            writers[v].append(k)

    rows = _Rows()
    # Every target is saved or derived, and so is whatever a step reads -- by another equation than its own.
    for v in problem.targets:
        if v in save:
            rows.add({save[v]: 1.0} | {use[k]: 1.0 for k in writers[v]}, 1.0)
    for k, step in enumerate(steps):
        for v in reads[k]:
            others = {use[j]: 1.0 for j in writers[v] if steps[j].equation != step.equation}
            rows.add({save[v]: 1.0} | others | {use[k]: -1.0}, 0.0)
    # An equation is not run both ways: what one step reads, another has no need to write.
    by_equation: dict[int, list[int]] = {}
    for k, step in enumerate(steps):
        by_equation.setdefault(step.equation, []).append(k)
    for group in by_equation.values():
        for j, k in itertools.combinations(group, 2):
            if set(reads[j]).intersection(writes[k]) and set(reads[k]).intersection(writes[j]):
                rows.add({use[j]: -1.0, use[k]: -1.0}, -1.0)
    # What a step writes comes after what it reads (C. E. Miller, A. W. Tucker, R. A. Zemlin, J. ACM 7(4),
    # 1960); only values that can lie on a common cycle need it.
    component, size = _components(values, reads, writes)
    for k in range(len(steps)):
        for i in reads[k]:
            for o in writes[k]:
                if component[i] == component[o]:
                    n = float(size[component[i]])
                    slack = {save[o]: n} if len(writes[k]) > 1 else {}
                    rows.add({order[o]: 1.0, order[i]: -1.0, use[k]: -n} | slack, 1.0 - n)
    for cut in cuts:
        rows.add({save[v]: 1.0 for v in cut}, 1.0)
    columns = _add_taints(problem, rows, columns, steps, save, use)

    unit = max(problem.residual_bytes, 1)
    bytes_of = np.zeros(columns)
    overhead_of = np.zeros(columns)
    for v in values:
        bytes_of[save[v]] = problem.bytes[v] / unit
    for k, step in enumerate(steps):
        overhead_of[use[k]] = problem.overhead([step])
    if limit.max_bytes is not None:
        rows.add({c: -bytes_of[c] for c in save.values()}, -limit.max_bytes / unit * (1 + 1e-12))
    elif math.isfinite(limit.max_overhead):
        rows.add({c: -overhead_of[c] for c in use}, -limit.max_overhead)

    weight_bytes, weight_overhead = _weights(limit)
    objective = SCALE * (weight_bytes * bytes_of + weight_overhead * overhead_of)
    if math.isfinite(cutoff):
        rows.add({c: -value for c, value in enumerate(objective) if value}, -cutoff * SCALE * (1 - GAP))
    upper = np.ones(columns)
    integrality = np.ones(columns)
    for v in values:
        upper[order[v]] = max(size[component[v]] - 1, 0)
        integrality[order[v]] = 0
    integrality[2 * len(values) + len(steps) :] = 0
    for v in _dominated(problem, steps, reads, save):
        upper[save[v]] = 0
    result = milp(
        objective,
        constraints=rows.build(columns),
        bounds=Bounds(np.zeros(columns), upper),
        integrality=integrality,
        options={"mip_rel_gap": GAP, "time_limit": max(deadline - time.monotonic(), 0.1)},
    )
    if result.status == 2:  # infeasible: nothing better than the cutoff, or nothing within the limit
        return None, cutoff
    if result.x is None:
        return None, (result.mip_dual_bound or 0.0) / SCALE
    saved = tuple(v for v in values if result.x[save[v]] > 0.5)
    chosen: dict[int, Step] = {}
    for k in sorted(range(len(steps)), key=lambda k: [result.x[order[v]] for v in writes[k][:1]]):
        if result.x[use[k]] > 0.5:
            for v in writes[k]:
                if v not in saved:
                    chosen.setdefault(v, steps[k])
    return (saved, chosen), result.mip_dual_bound / SCALE


def _components(values, reads, writes):
    """The strongly connected components of the derivation graph and their sizes."""
    place = {v: k for k, v in enumerate(values)}
    arcs = [(place[i], place[o]) for r, w in zip(reads, writes, strict=True) for i in r for o in w]
    rows, cols = zip(*arcs, strict=True) if arcs else ((), ())
    graph = coo_array((np.ones(len(arcs)), (rows, cols)), (len(values), len(values)))
    _, labels = connected_components(graph.tocsr(), directed=True, connection="strong")
    sizes = np.bincount(labels, minlength=1)
    return {v: labels[k] for v, k in place.items()}, sizes


def _dominated(problem: Problem, steps, reads, save) -> set[int]:
    """Values never worth saving: one of no more bytes gives them at no cost. (Of two that give each other,
    the first is kept.)"""
    dominated: set[int] = set()
    for k, step in enumerate(steps):
        if step.inverts or step.cost or len(reads[k]) != 1 or len(step.writes) != 1:
            continue
        (source,), (result,) = reads[k], step.writes
        if result in save and problem.bytes[source] <= problem.bytes[result]:
            dominated.add(result)
    return dominated


def _add_taints(problem: Problem, rows: _Rows, columns: int, steps, save, use) -> int:
    """Variables in [0, 1]: whether a derived value is inexact, where that decides what may read it."""
    for kind in ("rounded", "narrowed"):
        blocked = {k: set(problem.sensitive(s)) for k, s in enumerate(steps)}
        forbidden = problem.forbidden[kind]
        reach: set[int] = set()
        while True:
            more = {
                v
                for s in steps
                for v in s.writes
                if v not in reach
                and problem.float_size(v)
                and (
                    kind in problem.taints(s)
                    or any(problem.spreads(s, kind, r, v) for r in s.reads if r in reach)
                )
            }
            if not more:
                break
            reach |= more
        watched = reach.intersection(forbidden.union(*blocked.values()))
        while True:
            more = {
                r
                for s in steps
                for r in s.reads
                if r in reach
                and r not in watched
                and any(problem.spreads(s, kind, r, v) for v in s.writes if v in watched)
            }
            if not more:
                break
            watched |= more
        watched &= save.keys()
        level = {v: columns + k for k, v in enumerate(sorted(watched))}
        columns += len(level)
        for k, step in enumerate(steps):
            for v in step.writes:
                if v not in level:
                    continue
                if kind in problem.taints(step):
                    if v in forbidden:
                        rows.add({use[k]: -1.0}, 0.0)
                    rows.add({level[v]: 1.0, use[k]: -1.0}, 0.0)
                for r in step.reads:
                    if r in level and problem.spreads(step, kind, r, v):
                        rows.add({level[v]: 1.0, level[r]: -1.0, use[k]: -1.0}, -1.0)
            for v in blocked[k].intersection(level):
                rows.add({level[v]: -1.0, use[k]: -1.0}, -1.0)
        for v in forbidden.intersection(level):
            rows.add({level[v]: -1.0}, 0.0)
    return columns


def _least(problem: Problem, limit: Limit) -> Plan:
    """The plan of least memory, where nothing else was found under `max_bytes` and this one keeps to it."""
    least = solve(problem, Limit(max_overhead=math.inf))
    if limit.max_bytes is None or least.saved_bytes > limit.max_bytes:
        raise PlanError(
            f"max_bytes={limit.max_bytes:,} is below the least possible: {least.saved_bytes:,} bytes, "
            f"with {least.overhead:.1%} recomputation"
        )
    return dataclasses.replace(least, gap=1.0)
