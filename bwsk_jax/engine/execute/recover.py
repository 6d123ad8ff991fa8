"""Run a plan: give back, from what was saved, what the backward pass reads.

A plan whose inverses need a guard has two schedules. What both have in common runs first, then the guard, and
then a conditional runs what is left of the one or of the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from jax import lax
from jax.extend.core import primitives as p

from bwsk_jax.engine.execute.guard import trusted
from bwsk_jax.engine.execute.steps import Environment, leading_to, reads_from, run_steps
from bwsk_jax.engine.plan.plan import Plan
from bwsk_jax.engine.plan.problem import Step

__all__ = ["recover"]

_READS_KEY = {p.random_bits_p, p.random_split_p, p.random_fold_in_p, p.random_seed_p}


def recover(plan: Plan, known: Environment) -> Environment:
    """All targets of the plan, from the values of those that are available and of the saved ones."""
    problem = plan.problem
    environment = dict(problem.program.constants) | known
    if plan.fallback is None:
        run_steps(plan, plan.steps, environment)
        return {v: environment[v] for v in problem.targets}
    stages = _stages(plan, plan.fallback)
    run_steps(plan, stages.shared, environment)
    wanted = [v for v in problem.targets if v not in environment]
    given = list(
        dict.fromkeys((*reads_from(stages.guarded, environment), *reads_from(stages.fallback, environment)))
    )

    def branch(steps):
        def run(values):
            inner = dict(zip(given, values, strict=True))
            run_steps(plan, steps, inner)
            return [inner[v] for v in wanted]

        return run

    verdict = trusted(plan, stages.guarded, stages.fallback, environment)
    operands = [environment[v] for v in given]
    results: Sequence[Any] = lax.cond(verdict, branch(stages.guarded), branch(stages.fallback), operands)
    environment.update(zip(wanted, results, strict=True))
    return {v: environment[v] for v in problem.targets}


class _Stages(NamedTuple):
    """The steps before the conditional, those of its branch with inverses and those of the one without."""

    shared: list[Step]
    guarded: list[Step]
    fallback: list[Step]


def _stages(plan: Plan, fallback: Sequence[Step]) -> _Stages:
    """Split both schedules of a plan.

    Before the conditional runs what both schedules do for values that depend on parameters alone, what reads
    a key (inside the conditional, `vmap` would batch the key with the branch, and the `rbg` generator then
    draws other bits than the forward pass did), and what the guarded inverses are applied to, for the guard
    to look at.
    """
    wanted = _on_parameters_alone(plan, fallback) | _drawing(plan, plan.steps) | _drawing(plan, fallback)
    wanted |= _feeding_guarded(plan)
    known = set(plan.problem.available).union(plan.saved)
    shared: dict[Step, None] = {}
    for step in (*plan.steps, *fallback):
        if step in wanted and step not in shared and known.issuperset(step.reads):
            shared[step] = None
            known.update(step.writes)
    return _Stages(
        list(shared),
        [s for s in plan.steps if s not in shared],
        [s for s in fallback if s not in shared],
    )


def _on_parameters_alone(plan: Plan, fallback: Sequence[Step]) -> set[Step]:
    """The steps of both schedules whose results depend on no activation."""
    both = set(plan.steps).intersection(fallback)
    return {s for s in both if plan.problem.parameter_only.issuperset(s.writes)}


def _drawing(plan: Plan, steps: Sequence[Step]) -> set[Step]:
    """The steps that read a key, and those that lead to them."""
    equations = plan.problem.program.equations
    return set(leading_to(steps, (s for s in steps if equations[s.equation].primitive in _READS_KEY)))


def _feeding_guarded(plan: Plan) -> set[Step]:
    """The steps that lead to guarded ones and do not themselves depend on one."""
    uncertain: set[int] = set()
    sure = []
    for step in plan.steps:
        if step in plan.guarded_steps or uncertain.intersection(step.reads):
            uncertain.update(step.writes)
        else:
            sure.append(step)
    return set(leading_to(plan.steps, plan.guarded_steps)).intersection(sure)
