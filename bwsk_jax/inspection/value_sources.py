"""Where the backward pass gets each value that it reads: it was saved, or is inverted or replayed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from bwsk_jax import Plan
from bwsk_jax.engine.program.jaxprs import Equation
from bwsk_jax.engine.program.types import nbytes

__all__ = ["HOW", "ValueSource", "residual_sources", "total_bytes", "value_sources"]

HOW = ("saved", "inverted", "replayed")


@dataclass(frozen=True)
class ValueSource:
    """Where the backward pass gets one value under a plan.

    Attributes:
      value: the value's number.
      type: its type, such as "f32[4,128]".
      bytes: what it takes where the plan saves it; booleans are saved as bits.
      how: "saved", "inverted" or "replayed".
      grade: the grade of the inverse; "" unless the value is inverted.
      equation: the number of the equation that is solved for an inverted value, or that makes any other; None
        for an argument.
      primitive: that of the equation, or "argument".
      module, source: where the equation stands.
      residual: whether plain autodiff would keep the value.
    """

    value: int
    type: str
    bytes: int
    how: str
    grade: str
    equation: int | None
    primitive: str
    module: str
    source: str
    residual: bool


def value_sources(plan: Plan) -> list[ValueSource]:
    """Return what the plan saves, then what each step yields, in the order of the backward pass."""
    return [*_saved(plan), *_stepped(plan)]


def residual_sources(plan: Plan) -> list[ValueSource]:
    """Return the source of each value that plain autodiff would keep, in the order of the program.

    Their `bytes` are what plain autodiff keeps, where a boolean takes a byte.
    """
    avals = plan.problem.program.avals
    residuals: dict[int, ValueSource] = {}
    for source in value_sources(plan):
        if source.residual and source.value not in residuals:
            residuals[source.value] = replace(source, bytes=nbytes(avals[source.value]))
    return sorted(residuals.values(), key=lambda source: source.value)


def total_bytes(sources: list[ValueSource]) -> dict[str, int]:
    """Return how many bytes are saved, how many are inverted, and how many are replayed."""
    return {how: sum(source.bytes for source in sources if source.how == how) for how in HOW}


def _saved(plan: Plan) -> Iterator[ValueSource]:
    makers = {v: number for number, e in enumerate(plan.problem.program.equations) for v in e.outputs}
    for value in plan.saved:
        yield _source(plan, value, "saved", "", makers.get(value))


def _stepped(plan: Plan) -> Iterator[ValueSource]:
    for step in plan.steps:
        how, grade = ("replayed", "") if step.grade is None else ("inverted", step.grade.value)
        for value in step.writes:
            yield _source(plan, value, how, grade, step.equation)


def _source(plan: Plan, value: int, how: str, grade: str, number: int | None) -> ValueSource:
    program = plan.problem.program
    equation = None if number is None else program.equations[number]
    return ValueSource(
        value=value,
        type=program.avals[value].str_short(short_dtypes=True),
        bytes=plan.problem.bytes[value],
        how=how,
        grade=grade,
        equation=number,
        primitive="argument" if equation is None else str(equation.primitive),
        module="" if equation is None else _module(equation),
        source="" if equation is None else equation.line,
        residual=value in plan.problem.residuals,
    )


def _module(equation: Equation) -> str:
    """Return the name stack without the scopes that differentiation and `einsum` add to it."""
    scopes = re.sub(r"jvp\(([^()]*)\)", r"\1", equation.module).split("/")
    return "/".join(scope for scope in scopes if "->" not in scope)
