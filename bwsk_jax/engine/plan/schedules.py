"""Schedules: what can be derived from a given set of saved values, in which order, and how exactly."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Collection, Sequence

from bwsk_jax.engine.plan.problem import Problem, Step
from bwsk_jax.engine.rules.exactness import Taint

__all__ = ["Tainted", "derive", "entering", "ordered", "propagate"]

Tainted = dict[Taint, set[int]]
"""The inexact values of a schedule, by kind."""

INEXACT_PENALTY = 1e24
"""FLOPs that no function has: what an inexact step costs beyond its own FLOPs."""


# --- exactness ---------------------------------------------------------------------------------------------


def propagate(problem: Problem, *schedules: Sequence[Step]) -> Tainted | None:
    """The inexact values of schedules that may follow each other from iteration to iteration.

    None where a step reads or writes what must be exact.
    """
    start = entering(problem, *schedules)
    if start is None:
        return None
    ends = [_after(problem, schedule, start) for schedule in schedules]
    return _union(start, *(end for end in ends if end is not None))


def entering(problem: Problem, *schedules: Sequence[Step]) -> Tainted | None:
    """The inexact values that an iteration starts from, whichever of the schedules ran before it.

    The carry that a scan hands back is as inexact as the iteration after this one recovered it: what comes
    out inexact goes in again, until no more does. None where a step reads or writes what must be exact.
    """
    start = nothing()
    while True:
        ends = [_after(problem, schedule, start) for schedule in schedules]
        if None in ends:
            return None
        grown = recurring(problem, start, *(end for end in ends if end is not None))
        if grown is None:
            return start
        start = grown


def nothing() -> Tainted:
    """No inexact values."""
    return {taint: set() for taint in Taint}


def recurring(problem: Problem, start: Tainted, *ends: Tainted) -> Tainted | None:
    """What an iteration starts from if the one before ended so, or None if it is what it started from."""
    end = _union(*ends)
    more = {taint: {a for a, b in problem.recurrence if b in values} for taint, values in end.items()}
    if all(more[taint] <= start[taint] for taint in Taint):
        return None
    return _union(start, more)


def _union(*sets: Tainted) -> Tainted:
    return {taint: set().union(*(tainted[taint] for tainted in sets)) for taint in Taint}


def _after(problem: Problem, schedule: Sequence[Step], start: Tainted) -> Tainted | None:
    """The inexact values after a schedule, or None where a step, or the backward pass, must not read them."""
    tainted = _union(start)
    for step in schedule:
        written = _written(problem, step, tainted)
        if written is None:
            return None
        for taint, values in written.items():
            tainted[taint].update(values)
    if any(tainted[taint].intersection(problem.forbidden[taint]) for taint in Taint):
        return None
    return tainted


def _written(problem: Problem, step: Step, tainted: Tainted) -> Tainted | None:
    """The inexact values among those that a step writes, or None where it may not run."""
    written: Tainted = {}
    for taint, values in tainted.items():
        if values and values.intersection(problem.exact_reads(taint, step)):
            return None
        brought_in = taint in step.brings_in
        written[taint] = {
            v for v in step.writes if brought_in or values.intersection(problem.carriers(taint, step, v))
        }
        if written[taint].intersection(problem.forbidden[taint]):
            return None
    return written


# --- derivations -------------------------------------------------------------------------------------------


def derive(
    problem: Problem,
    saved: Collection[int],
    allowed: Callable[[Step], bool] = lambda step: True,
    start: Tainted | None = None,
) -> dict[int, Step]:
    """A cheap step for each value that can be had from the saved ones by steps that are `allowed`.

    `start` are the inexact values that an iteration may start from: see `entering`.

    An inexact inverse is taken only where nothing else leads on: what exact steps reach is derived by them
    alone, and beyond that an inexact step is dearer than any number of replays.
    """
    steps = [s for s in problem.steps if allowed(s)]
    start = nothing() if start is None else start
    while True:
        derivation = _Derivation(problem, saved, start)
        derivation.extend([s for s in steps if s.exact])
        derivation.extend(steps)
        grown = recurring(problem, start, derivation.tainted)
        if grown is None:
            return derivation.chosen
        start = grown


class _Derivation:
    """Cheapest derivations, by the generalisation of Dijkstra's algorithm to hypergraphs (D. E. Knuth,
    *Information Processing Letters* 6(1), 1977).

    A value that several steps read is counted for each of them, so the total is cheap, but not the least.
    """

    def __init__(self, problem: Problem, saved: Collection[int], start: Tainted):
        self.problem = problem
        self.at_hand = problem.at_hand.union(saved)
        self.price: dict[int, float] = {}
        self.chosen: dict[int, Step] = {}
        self.tainted = _union(start)
        for step in dict.fromkeys(problem.free_steps.values()):
            for taint, values in (_written(problem, step, self.tainted) or {}).items():
                self.tainted[taint].update(values)

    def extend(self, steps: Sequence[Step]) -> None:
        """Derive all that these steps reach from what is derived already."""
        readers: dict[int, list[int]] = {}
        missing = []
        for k, step in enumerate(steps):
            unknown = {v for v in step.reads if self._is_unknown(v)}
            missing.append(len(unknown))
            for v in unknown:
                readers.setdefault(v, []).append(k)
        order = itertools.count()
        queue = [(self._total(step), next(order), step) for k, step in enumerate(steps) if missing[k] == 0]
        heapq.heapify(queue)
        while queue:
            total, _, step = heapq.heappop(queue)
            for v in self._take(step, total):
                for k in readers.get(v, ()):
                    missing[k] -= 1
                    if missing[k] == 0:
                        heapq.heappush(queue, (self._total(steps[k]), next(order), steps[k]))

    def _is_unknown(self, value: int) -> bool:
        return value not in self.at_hand and value not in self.price

    def _total(self, step: Step) -> float:
        penalty = 0.0 if step.exact else INEXACT_PENALTY
        return step.cost + sum(self.price.get(v, 0.0) for v in step.reads) + penalty

    def _take(self, step: Step, total: float) -> list[int]:
        """Choose the step for what it gives first; return these values, none where it may not run."""
        fresh = [v for v in step.writes if self._is_unknown(v)]
        written = _written(self.problem, step, self.tainted) if fresh else None
        if written is None:
            return []
        for v in fresh:
            self.price[v], self.chosen[v] = total, step
        for taint, values in written.items():
            self.tainted[taint].update(values.intersection(fresh))
        return fresh


def ordered(problem: Problem, saved: Collection[int], chosen: dict[int, Step]) -> tuple[Step, ...] | None:
    """The chosen steps that the targets need, in an order in which they can run; None if there is none."""
    known = problem.available.union(saved)
    done: dict[int, None] = {}
    schedule: dict[Step, None] = {}
    on_path: set[int] = set()
    stack = [(v, False) for v in reversed(problem.targets) if v not in known]
    while stack:
        value, expanded = stack.pop()
        if value in done:
            continue
        step = problem.free_steps.get(value) or chosen.get(value)
        if step is None or (not expanded and value in on_path):
            return None
        if expanded:
            on_path.discard(value)
            schedule[step] = None
            done.update(dict.fromkeys(step.writes))
            continue
        on_path.add(value)
        stack.append((value, True))
        stack.extend((v, False) for v in reversed(step.reads) if v not in known and v not in done)
    return tuple(schedule)
