"""Schedules: what can be derived from a given set of saved values, in which order, and how exactly."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Collection, Iterable

from bwsk_jax.engine.plan.problem import Problem, Step

__all__ = ["derive", "ordered", "taint"]

_DEAR = 1e24
"""FLOPs that no function has."""


def derive(
    problem: Problem, saved: Collection[int], allowed: Callable[[Step], bool] = lambda s: True
) -> dict[int, Step]:
    """A cheap step for each value that can be had from the saved ones.

    Cheapest derivations by the generalisation of Dijkstra's algorithm to hypergraphs (D. E. Knuth,
    *Information Processing Letters* 6(1), 1977); a value that several steps read is counted for each, so the
    total is cheap, not least. An inexact inverse is taken only where nothing else leads on: what exact steps
    reach is derived by them alone, and beyond that an inexact one is dearer than any number of replays.
    """
    at_hand = problem.free.union(problem.trivial, saved)
    price: dict[int, float] = {}
    chosen: dict[int, Step] = {}
    tainted: dict[str, set[int]] = {"rounded": set(), "narrowed": set()}
    for exact in (True, False):
        steps = [s for s in problem.steps if allowed(s) and (not exact or s.exact)]
        readers: dict[int, list[int]] = {}
        missing = []
        for k, step in enumerate(steps):
            unknown = {v for v in step.reads if v not in at_hand and v not in price}
            missing.append(len(unknown))
            for v in unknown:
                readers.setdefault(v, []).append(k)
        order = itertools.count()
        queue = []

        def offer(step, queue=queue, order=order):
            total = step.cost + sum(price.get(v, 0.0) for v in step.reads) + (0.0 if step.exact else _DEAR)
            heapq.heappush(queue, (total, next(order), step))

        for k, step in enumerate(steps):
            if missing[k] == 0:
                offer(step)
        while queue:
            total, _, step = heapq.heappop(queue)
            fresh = [v for v in step.writes if v not in at_hand and v not in price]
            taints = _taint_of(problem, step, tainted)
            if not fresh or taints is None:
                continue
            for v in fresh:
                price[v], chosen[v] = total, step
                for kind in taints.get(v, ()):
                    tainted[kind].add(v)
                for k in readers.get(v, ()):
                    missing[k] -= 1
                    if missing[k] == 0:
                        offer(steps[k])
    return chosen


def _taint_of(problem: Problem, step: Step, tainted: dict[str, set[int]]) -> dict[int, list[str]] | None:
    """The inexactness of what a step writes, or None where it may not be used."""
    sensitive = problem.sensitive(step)
    result: dict[int, list[str]] = {}
    for kind, values in tainted.items():
        if values.intersection(sensitive):
            return None
        for v in step.writes:
            inherited = any(problem.spreads(step, kind, r, v) for r in step.reads if r in values)
            if inherited or kind in problem.taints(step):
                if v in problem.forbidden[kind]:
                    return None
                result.setdefault(v, []).append(kind)
    return result


def ordered(problem: Problem, saved: Collection[int], chosen: dict[int, Step]) -> tuple[Step, ...] | None:
    """The chosen steps that the targets need, in an order in which they can run; None if there is none."""
    at_hand = problem.free.union(saved)
    done: dict[int, None] = {}
    schedule: dict[Step, None] = {}
    on_path: set[int] = set()
    stack = [(v, False) for v in reversed(problem.targets) if v not in at_hand]
    while stack:
        value, expanded = stack.pop()
        if value in done:
            continue
        step = problem.trivial.get(value) or chosen.get(value)
        if step is None or (not expanded and value in on_path):
            return None
        if expanded:
            on_path.discard(value)
            schedule[step] = None
            done.update(dict.fromkeys(step.writes))
            continue
        on_path.add(value)
        stack.append((value, True))
        stack.extend((v, False) for v in reversed(step.reads) if v not in at_hand and v not in done)
    return tuple(schedule)


def taint(problem: Problem, schedule: Iterable[Step]) -> dict[str, set[int]] | None:
    """The inexact values of a schedule by kind, or None where a step reads what it must not."""
    tainted: dict[str, set[int]] = {"rounded": set(), "narrowed": set()}
    for step in schedule:
        taints = _taint_of(problem, step, tainted)
        if taints is None:
            return None
        for v, kinds in taints.items():
            for kind in kinds:
                tainted[kind].add(v)
    return tainted
