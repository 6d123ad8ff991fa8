"""The integer program behind a plan: what to save, which steps to run.

Binary *save* per value, binary *use* per step of the derivation graph, and an order per value so that no
derivation is circular. Under `max_overhead` the program minimises `saved_bytes + WEIGHT * residual_bytes *
overhead`; the second term only breaks near-ties (without it the last half percent of memory costs a third of
the recomputation), and because it is fixed, a looser limit never saves more bytes. Under `max_bytes` it
minimises the overhead. HiGHS solves it (Q. Huangfu and J. A. J. Hall, *Math. Prog. Comp.* 10, 2018).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import numbers
import time

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from bwsk_jax.engine.plan.problem import Problem, Step

__all__ = ["DEFAULT_OVERHEAD", "Limit", "candidates", "integer_program", "weights"]

DEFAULT_OVERHEAD = 0.03
WEIGHT = 0.005
GAP = 1e-8
"""Relative; a coarser one would let a looser limit save a few bytes more."""
SCALE = 100.0
"""Of the objective, so that HiGHS's absolute gap of 1e-6 does not end the search before the relative one."""


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
            if value is not None and not isinstance(value, numbers.Real):
                raise TypeError(f"{name} must be a number, got {value!r}")
            if value is not None and not value >= 0:
                raise ValueError(f"{name} must not be negative, got {value}")


def candidates(problem: Problem) -> list[int]:
    """The values that can be saved or derived, in order."""
    at_hand = problem.free.union(problem.trivial)
    found = set(problem.targets).union(*((*s.reads, *s.writes) for s in problem.steps))
    return sorted(found - at_hand)


def weights(limit: Limit) -> tuple[float, float]:
    """The factors of a plan's bytes (as a fraction of the residuals') and of its overhead, when judged."""
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


def integer_program(problem: Problem, limit: Limit, cuts: list[list[int]], deadline: float, cutoff: float):
    """((saved, step by value), lower bound): the first is None if nothing beats `cutoff` or time ran out."""
    values, steps = candidates(problem), list(problem.steps)
    if not values:
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

    weight_bytes, weight_overhead = weights(limit)
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
