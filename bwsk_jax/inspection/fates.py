"""How the backward pass has each value that it reads: saved, inverted or replayed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from bwsk_jax import Plan
from bwsk_jax.engine.program.jaxprs import Equation

__all__ = ["HOW", "Fate", "fates", "residual_fates", "total_bytes"]

HOW = ("saved", "inverted", "replayed")


@dataclass(frozen=True)
class Fate:
    """One value under a plan.

    Attributes:
      value: its number.
      type: such as "f32[4,128]".
      bytes: its size.
      how: "saved", "inverted" or "replayed".
      grade: of the inverse, "" unless inverted.
      primitive: of the equation that makes it or, if inverted, that is solved for it; "argument" if none.
      module, source: of that equation.
      residual: whether plain autodiff would keep it.
    """

    value: int
    type: str
    bytes: int
    how: str
    grade: str
    primitive: str
    module: str
    source: str
    residual: bool


def fates(plan: Plan) -> list[Fate]:
    """What is saved, then what each step gives, in the order of the backward pass."""
    return [*_saved(plan), *_given(plan)]


def residual_fates(plan: Plan) -> list[Fate]:
    """What becomes of each value that plain autodiff would keep, in the order of the program."""
    residuals: dict[int, Fate] = {}
    for fate in fates(plan):
        if fate.residual:
            residuals.setdefault(fate.value, fate)
    return sorted(residuals.values(), key=lambda fate: fate.value)


def total_bytes(found: list[Fate]) -> dict[str, int]:
    """Bytes by `how`."""
    return {how: sum(fate.bytes for fate in found if fate.how == how) for how in HOW}


def _saved(plan: Plan) -> Iterator[Fate]:
    makers = {v: number for number, e in enumerate(plan.problem.program.equations) for v in e.outputs}
    for value in plan.saved:
        yield _fate(plan, value, "saved", "", makers.get(value))


def _given(plan: Plan) -> Iterator[Fate]:
    for step in plan.steps:
        how, grade = ("inverted", step.grade.value) if step.inverts else ("replayed", "")
        for value in step.writes:
            yield _fate(plan, value, how, grade, step.equation)


def _fate(plan: Plan, value: int, how: str, grade: str, number: int | None) -> Fate:
    program = plan.problem.program
    equation = None if number is None else program.equations[number]
    return Fate(
        value=value,
        type=program.avals[value].str_short(short_dtypes=True),
        bytes=plan.problem.bytes[value],
        how=how,
        grade=grade,
        primitive="argument" if equation is None else str(equation.primitive),
        module="" if equation is None else _module(equation),
        source="" if equation is None else equation.line,
        residual=value in plan.problem.residuals,
    )


def _module(equation: Equation) -> str:
    """The name stack, without what differentiation and `einsum` put on it."""
    scopes = re.sub(r"jvp\(([^()]*)\)", r"\1", equation.module).split("/")
    return "/".join(scope for scope in scopes if "->" not in scope)
