"""The integer program behind a plan: what to save, which steps to run.

It has a binary *save* for each value, a binary *use* for each step of the derivation graph, and an *order*
for each value so that no derivation is circular. Under a limit of time it minimises

    saved_bytes + weight * residual_bytes * time,

with a weight that only breaks near-ties, and under `max_bytes` the time, which is that of the steps and of
the traffic of what is saved. HiGHS solves it (Q. Huangfu and J. A. J. Hall, *Math. Prog. Comp.* 10, 2018). It
may visit only so many nodes of its tree, never run only so many seconds: a busy machine finds what an idle
one finds, and so do all hosts that compile one program.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from bwsk_jax.engine.plan.plan import Limit
from bwsk_jax.engine.plan.problem import Problem, Step
from bwsk_jax.engine.program.types import is_differentiable
from bwsk_jax.engine.rules.exactness import Taint

__all__ = ["Solution", "barred", "candidates", "integer_program", "lower_bound", "pinned"]

GAP = 1e-8
"""Relative; a coarser one would let a looser limit save a few bytes more."""
SCALE = 100.0
"""Of the objective, so that HiGHS's absolute gap of 1e-6 does not end the search before the relative one."""
WORK = 100_000
"""How much the search may do: the nodes that it visits times the variables of the program. The largest layer
of the families in `experiments` takes a quarter of it."""
FEWEST_NODES = 20
"""How many nodes it may visit in any case: the heuristics before the first find most of what is found."""
LARGE, COARSE_GAP = 3000, 0.005
"""From so many variables on, the search ends at this relative gap, because a single node takes seconds."""
INFEASIBLE = 2
"""SciPy's status of a program without a solution."""


class Solution(NamedTuple):
    """The saved values, and a step for each value that is derived."""

    saved: tuple[int, ...]
    chosen: dict[int, Step]


def candidates(problem: Problem) -> list[int]:
    """The values that can be saved or derived, in order."""
    found = set(problem.targets).union(*((*s.reads, *s.writes) for s in problem.steps))
    return sorted(found - problem.at_hand)


def integer_program(
    problem: Problem, limit: Limit, *, cuts: Iterable[list[int]] = (), cutoff: float = math.inf
) -> tuple[Solution | None, float]:
    """The best solution that saves at least one value of each cut, and a lower bound of the objective.

    The solution is None if there is none whose objective is below `cutoff`, or if the search ended before one
    was found.
    """
    if not candidates(problem):
        return (Solution((), {}) if cutoff > 0 else None), 0.0
    model = _Model(problem)
    model.add_constraints(limit, cuts)
    return model.solve(limit, cutoff)


def lower_bound(problem: Problem, limit: Limit) -> float:
    """What no plan's objective is below, from the linear program in which values may be saved in part."""
    if not candidates(problem):
        return 0.0
    model = _Model(problem)
    model.add_constraints(limit, [])
    return model.relaxed(limit)


def pinned(problem: Problem, limit: Limit) -> frozenset[int]:
    """The values that the limit wants saved."""
    return frozenset().union(*(problem.named.get(name, ()) for name in limit.save_names))


def barred(problem: Problem, limit: Limit) -> frozenset[int]:
    """The values that the limit does not want saved."""
    return problem.forms_of(v for name in limit.replay_names for v in problem.named.get(name, ()))


class _Rows:
    """Sparse constraints `low <= row @ x`, written one at a time."""

    def __init__(self) -> None:
        self.entries: list[tuple[int, int, float]] = []
        self.low: list[float] = []

    def add(self, terms: Mapping[int, float], low: float) -> None:
        self.entries += [(len(self.low), column, value) for column, value in terms.items()]
        self.low.append(low)

    def build(self, columns: int) -> LinearConstraint:
        rows, cols, values = zip(*self.entries, strict=True)
        matrix = coo_array((values, (rows, cols)), (len(self.low), columns))
        low: Any = self.low  # SciPy's own annotations take a bound for one number
        return LinearConstraint(matrix.tocsr(), low, np.inf)


class _Model:
    """The columns of the program and its constraints, one method for each family of them.

    `reads[k]` and `writes[k]` are what step k reads and writes of the values that are not at hand.
    """

    def __init__(self, problem: Problem):
        self.problem = problem
        self.values, self.steps = candidates(problem), problem.steps
        self.reads = [[v for v in s.reads if v not in problem.at_hand] for s in self.steps]
        self.writes = [[v for v in s.writes if v not in problem.at_hand] for s in self.steps]
        self.writers: dict[int, list[int]] = {v: [] for v in self.values}
        for k, written in enumerate(self.writes):
            for v in written:
                self.writers[v].append(k)
        self.columns = 0
        self.save = dict(zip(self.values, self._new(len(self.values)), strict=True))
        self.use = self._new(len(self.steps))
        self.order = dict(zip(self.values, self._new(len(self.values)), strict=True))
        self.component, self.component_size = self._components()
        self.rows = _Rows()
        self.bytes_of = {self.save[v]: problem.bytes[v] / max(problem.residual_bytes, 1) for v in self.values}
        self.time_of = {self.use[k]: problem.time([s]) for k, s in enumerate(self.steps)}
        self.time_of |= {self.save[v]: problem.time((), [v]) for v in self.values}

    def _new(self, count: int) -> range:
        """That many new columns."""
        self.columns += count
        return range(self.columns - count, self.columns)

    def _components(self) -> tuple[dict[int, int], np.ndarray]:
        """The strongly connected component of each value in the derivation graph, and their sizes."""
        place = {v: k for k, v in enumerate(self.values)}
        arcs = [
            (place[i], place[o])
            for reads, writes in zip(self.reads, self.writes, strict=True)
            for i in reads
            for o in writes
        ]
        rows, cols = zip(*arcs, strict=True) if arcs else ((), ())
        graph = coo_array((np.ones(len(arcs)), (rows, cols)), (len(place), len(place)))
        _, labels = connected_components(graph.tocsr(), directed=True, connection="strong")
        return {v: labels[k] for v, k in place.items()}, np.bincount(labels, minlength=1)

    # --- constraints ---

    def add_constraints(self, limit: Limit, cuts: Iterable[list[int]]) -> None:
        """All that a solution has to keep to."""
        self.add_availability()
        self.add_directions()
        self.add_order()
        for cut in cuts:
            self.rows.add({self.save[v]: 1.0 for v in cut}, 1.0)
        for taint in Taint:
            self.add_exactness(taint)
        self.add_limit(limit)

    def add_availability(self) -> None:
        """Each target is saved or derived, and so is what a step reads, by another equation than its own."""
        for v in self.problem.targets:
            if v in self.save:
                self.rows.add({self.save[v]: 1.0} | {self.use[k]: 1.0 for k in self.writers[v]}, 1.0)
        for k, step in enumerate(self.steps):
            for v in self.reads[k]:
                others = [j for j in self.writers[v] if self.steps[j].equation != step.equation]
                terms = {self.save[v]: 1.0} | {self.use[j]: 1.0 for j in others}
                self.rows.add(terms | {self.use[k]: -1.0}, 0.0)

    def add_directions(self) -> None:
        """No equation is run both ways: what one of its steps reads, another has no need to write."""
        by_equation: dict[int, list[int]] = {}
        for k, step in enumerate(self.steps):
            by_equation.setdefault(step.equation, []).append(k)
        for group in by_equation.values():
            for j, k in itertools.combinations(group, 2):
                forth = set(self.reads[j]).intersection(self.writes[k])
                back = set(self.reads[k]).intersection(self.writes[j])
                if forth and back:
                    self.rows.add({self.use[j]: -1.0, self.use[k]: -1.0}, -1.0)

    def add_order(self) -> None:
        """What a step writes comes after what it reads. Only values that can lie on a common cycle need it.

        The constraints are those of C. E. Miller, A. W. Tucker and R. A. Zemlin, J. ACM 7(4), 1960.
        """
        for k in range(len(self.steps)):
            for i, o in itertools.product(self.reads[k], self.writes[k]):
                if self.component[i] == self.component[o]:
                    n = float(self.component_size[self.component[i]])
                    slack = {self.save[o]: n} if len(self.writes[k]) > 1 else {}
                    terms = {self.order[o]: 1.0, self.order[i]: -1.0, self.use[k]: -n}
                    self.rows.add(terms | slack, 1.0 - n)

    def add_exactness(self, taint: Taint) -> None:
        """Nothing inexact is read or written where it must not be.

        A new variable in [0, 1] for each value that can be inexact, where that matters, is at least 1 if a
        used step brings the inexactness in, or carries it on from a value whose variable is 1.
        """
        problem, forbidden = self.problem, self.problem.forbidden[taint]
        exact_reads = [set(problem.exact_reads(taint, s)) for s in self.steps]
        watched = self._watched(taint, forbidden.union(*exact_reads))
        level = dict(zip(watched, self._new(len(watched)), strict=True))
        for k, step in enumerate(self.steps):
            for v in step.writes:
                if v not in level:
                    continue
                if taint in step.brings_in:
                    if v in forbidden:
                        self.rows.add({self.use[k]: -1.0}, 0.0)
                    self.rows.add({level[v]: 1.0, self.use[k]: -1.0}, 0.0)
                for r in problem.carriers(taint, step, v):
                    if r in level:
                        self.rows.add({level[v]: 1.0, level[r]: -1.0, self.use[k]: -1.0}, -1.0)
            for v in exact_reads[k].intersection(level):
                self.rows.add({level[v]: -1.0, self.use[k]: -1.0}, -1.0)
        for v, sources in self._always(taint):
            for r in level.keys() & sources:
                if v in level:
                    self.rows.add({level[v]: 1.0, level[r]: -1.0}, 0.0)
        for v in forbidden.intersection(level):
            self.rows.add({level[v]: -1.0}, 0.0)

    def _watched(self, taint: Taint, exact: Iterable[int]) -> list[int]:
        """The values that can be inexact and lead to one that must be `exact`."""
        avals = self.problem.program.avals
        carriers = [(v, self.problem.carriers(taint, s, v)) for s in self.steps for v in s.writes]
        carriers += self._always(taint)
        reach = {
            v for s in self.steps for v in s.writes if taint in s.brings_in and is_differentiable(avals[v])
        }
        while more := {v for v, read in carriers if v not in reach and not reach.isdisjoint(read)}:
            reach |= more
        watched = reach.intersection(exact)
        while more := {r for v, read in carriers if v in watched for r in read if r in reach} - watched:
            watched |= more
        return sorted(watched)

    def _always(self, taint: Taint) -> list[tuple[int, list[int]]]:
        """(value, the values that always carry inexactness on to it): by free steps, and from the iteration
        after this one."""
        free = self.problem.free_steps.items()
        carried = [(v, self.problem.carriers(taint, s, v)) for v, s in free]
        return carried + [(a, [b]) for a, b in self.problem.recurrence]

    def add_limit(self, limit: Limit) -> None:
        """The bytes or the time stay within the limit."""
        if limit.max_bytes is not None:
            most = limit.max_bytes / max(self.problem.residual_bytes, 1)
            self.rows.add({c: -value for c, value in self.bytes_of.items()}, -most * (1 + 1e-12))
        elif limit.max_overhead is not None and limit.bounds_overhead:
            self.rows.add({c: -value for c, value in self.time_of.items()}, -limit.max_overhead)

    # --- solving ---

    def solve(self, limit: Limit, cutoff: float) -> tuple[Solution | None, float]:
        """As `integer_program` says."""
        objective = self._objective(limit)
        if math.isfinite(cutoff):
            terms = {c: -value for c, value in enumerate(objective) if value}
            self.rows.add(terms, -cutoff * SCALE * (1 - GAP))
        bounds, integrality = self._domains(limit)
        result = self._minimised(objective, bounds, integrality)
        if result.status == INFEASIBLE:  # nothing better than the cutoff, or nothing within the limit
            return None, cutoff
        if result.x is None:
            return None, min(self.relaxed(limit), cutoff)
        return self._solution(result.x), result.mip_dual_bound / SCALE

    def relaxed(self, limit: Limit) -> float:
        """A lower bound of the objective: its least value where no variable has to be an integer."""
        bounds, integrality = self._domains(limit)
        result = self._minimised(self._objective(limit), bounds, np.zeros_like(integrality))
        return math.inf if result.status == INFEASIBLE else (result.fun or 0.0) / SCALE

    def _objective(self, limit: Limit) -> np.ndarray:
        weight_bytes, weight_overhead = limit.weights
        objective = np.zeros(self.columns)
        for c, value in self.bytes_of.items():
            objective[c] += SCALE * (weight_bytes * value)
        for c, value in self.time_of.items():
            objective[c] += SCALE * (weight_overhead * value)
        return objective

    def _minimised(self, objective: np.ndarray, bounds: Bounds, integrality: np.ndarray) -> Any:
        gap = GAP if self.columns < LARGE else COARSE_GAP
        return milp(
            objective,
            constraints=self.rows.build(self.columns),
            bounds=bounds,
            integrality=integrality,
            options={"mip_rel_gap": gap, "node_limit": max(WORK // self.columns, FEWEST_NODES)},
        )

    def _domains(self, limit: Limit) -> tuple[Bounds, np.ndarray]:
        """The bounds of each variable, and whether it is an integer (1) or not (0)."""
        low: Any = np.zeros(self.columns)
        upper: Any = np.ones(self.columns)
        integrality = np.zeros(self.columns)
        integrality[list(self.save.values())] = 1
        integrality[list(self.use)] = 1
        for v in self.values:
            upper[self.order[v]] = max(self.component_size[self.component[v]] - 1, 0)
        for v in self._dominated() | barred(self.problem, limit):
            if v in self.save:
                upper[self.save[v]] = 0
        for v in pinned(self.problem, limit) & self.save.keys():
            low[self.save[v]] = upper[self.save[v]] = 1
        return Bounds(low, upper), integrality

    def _dominated(self) -> set[int]:
        """Values that are never worth saving, because one of no more bytes gives them at no cost."""
        dominated: set[int] = set()
        for k, step in enumerate(self.steps):
            if step.inverts or step.cost or len(self.reads[k]) != 1 or len(step.writes) != 1:
                continue
            (source,), (result,) = self.reads[k], step.writes
            if result in self.save and self.problem.bytes[source] <= self.problem.bytes[result]:
                dominated.add(result)
        return dominated

    def _solution(self, x: np.ndarray) -> Solution:
        saved = tuple(v for v in self.values if x[self.save[v]] > 0.5)
        chosen: dict[int, Step] = {}
        in_order = sorted(
            range(len(self.steps)), key=lambda k: [x[self.order[v]] for v in self.writes[k][:1]]
        )
        for k in in_order:
            if x[self.use[k]] > 0.5:
                for v in self.writes[k]:
                    if v not in saved:
                        chosen.setdefault(v, self.steps[k])
        return Solution(saved, chosen)
