"""Run a plan: give back, from what was saved, what the backward pass reads.

A plan whose inverses need a guard has two schedules, and a conditional chooses between them. XLA gives all
results of a conditional memory of their own at once, and fuses nothing into them. So it gives only what the
two schedules derive differently, and what is dear; the cheap steps that both have in common run once, after
it. The dear ones run inside, where what they need on the way takes no memory outside.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from jax import lax
from jax.extend.core import primitives as p

from bwsk_jax.engine.execute.steps import Environment, leading_to, reads_from, run_steps
from bwsk_jax.engine.plan.plan import Plan
from bwsk_jax.engine.plan.problem import Step

__all__ = ["recover"]

_READS_KEY = {p.random_bits_p, p.random_split_p, p.random_fold_in_p, p.random_seed_p}


def recover(plan: Plan, known: Environment, is_trusted: Any = None) -> Environment:
    """All targets of the plan, from the values of those that are available and of the saved ones.

    `is_trusted` is what the guard says of the inverses; a plan that needs none needs no word.
    """
    problem = plan.problem
    environment = dict(problem.program.constants) | known
    if plan.fallback is None:
        run_steps(plan, plan.steps, environment)
    else:
        stages = _stages(plan, plan.fallback)
        run_steps(plan, stages.before, environment)
        environment.update(_chosen(plan, stages, environment, is_trusted))
        run_steps(plan, stages.after, environment)
    return {v: environment[v] for v in problem.targets}


class _Stages(NamedTuple):
    """The steps before the conditional, those of its two branches, the values that it gives, and the steps
    after it.
    """

    before: list[Step]
    guarded: list[Step]
    fallback: list[Step]
    chosen: list[int]
    after: list[Step]


def _chosen(plan: Plan, stages: _Stages, environment: Environment, is_trusted: Any) -> Environment:
    """What the conditional gives."""
    operands = list(
        dict.fromkeys((*reads_from(stages.guarded, environment), *reads_from(stages.fallback, environment)))
    )

    def branch(steps):
        def run(values):
            inner = dict(zip(operands, values, strict=True))
            run_steps(plan, steps, inner)
            return [inner[v] for v in stages.chosen]

        return run

    results: Sequence[Any] = lax.cond(
        is_trusted, branch(stages.guarded), branch(stages.fallback), [environment[v] for v in operands]
    )
    return dict(zip(stages.chosen, results, strict=True))


def _stages(plan: Plan, fallback: Sequence[Step]) -> _Stages:
    """Split both schedules of a plan.

    Before the conditional runs what both schedules do for values that depend on parameters alone, and what
    reads a key (inside, `vmap` would batch the key with the branch, and the `rbg` generator then draws other
    bits than the forward pass did).
    """
    common = set(plan.steps).intersection(fallback)
    known = set(plan.problem.available).union(plan.saved)
    wanted = {s for s in common if plan.problem.parameter_only.issuperset(s.writes)}
    wanted |= _drawing(plan, plan.steps) | _drawing(plan, fallback)
    before: dict[Step, None] = {}
    for step in (*plan.steps, *fallback):
        if step in wanted and step not in before and known.issuperset(step.reads):
            before[step] = None
            known.update(step.writes)
    guarded = [s for s in plan.steps if s not in before]
    refused = [s for s in fallback if s not in before]
    after = [s for s in guarded if s in common]
    while True:
        chosen = _read_later(plan, known, after)
        trusting, replaying = _giving(guarded, chosen), _giving(refused, chosen)
        # What is dear is not run in a branch and once more after it.
        dear = [s for s in after if _is_dear(plan, s) and (s in trusting or s in replaying)]
        if not dear:
            return _Stages(list(before), trusting, replaying, chosen, after)
        after = [s for s in after if s not in dear]


def _read_later(plan: Plan, known: set[int], after: Sequence[Step]) -> list[int]:
    """What the steps after the conditional, and the backward pass, read of values that are not `known` before
    it."""
    given = known.union(*(s.writes for s in after))
    read = (*(v for s in after for v in s.reads), *plan.problem.targets)
    return list(dict.fromkeys(v for v in read if v not in given))


def _giving(steps: Sequence[Step], values: Iterable[int]) -> list[Step]:
    """Those of the steps that give these values, and those that lead to them."""
    wanted = set(values)
    return leading_to(steps, [s for s in steps if wanted.intersection(s.writes)])


def _is_dear(plan: Plan, step: Step) -> bool:
    """Whether it costs more than a hundredth of the forward pass."""
    return 100 * step.cost > plan.problem.forward_cost


def _drawing(plan: Plan, steps: Sequence[Step]) -> set[Step]:
    """The steps that read a key, and those that lead to them."""
    equations = plan.problem.program.equations
    return set(leading_to(steps, (s for s in steps if equations[s.equation].primitive in _READS_KEY)))
