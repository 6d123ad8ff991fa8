"""Run the steps of a plan on the values that they read."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

from bwsk_jax.engine.plan.plan import Plan
from bwsk_jax.engine.plan.problem import Step
from bwsk_jax.engine.program.jaxprs import read
from bwsk_jax.engine.rules.registry import inverses_of

__all__ = ["Environment", "invert", "leading_to", "reads_from", "run_steps"]

Environment = dict[int, Any]
"""The arrays of a program's values, by their numbers."""


def run_steps(plan: Plan, steps: Iterable[Step], environment: Environment) -> None:
    """Run steps in order and add what they give to the environment."""
    for step in steps:
        equation = plan.problem.program.equations[step.equation]
        if step.inverts:
            results = [invert(plan, step, environment)]
        else:
            results = equation.bind([read(environment, v) for v in equation.inputs])
        environment.update(zip(step.writes, results, strict=True))


def invert(plan: Plan, step: Step, environment: Environment) -> Any:
    """The operand that an inversion solves for."""
    equation = plan.problem.program.equations[step.equation]
    inverse = next(i for i in inverses_of(equation) if i.operand == step.operand)
    with equation.scope():
        return inverse.solve(equation, functools.partial(read, environment))


def reads_from(steps: Iterable[Step], environment: Environment) -> list[int]:
    """The values of the environment that the steps read, in the order in which they first do."""
    written: set[int] = set()
    outside: dict[int, None] = {}
    for step in steps:
        outside.update((v, None) for v in step.reads if v not in written)
        written.update(step.writes)
    return [v for v in outside if v in environment]


def leading_to(steps: Sequence[Step], last: Iterable[Step]) -> list[Step]:
    """Those among the steps that are in `last`, or give what one of these needs, in order."""
    last, needed = set(last), set[int]()
    chain = []
    for step in reversed(steps):
        if step in last or needed.intersection(step.writes):
            chain.append(step)
            needed.update(step.reads)
    return chain[::-1]
