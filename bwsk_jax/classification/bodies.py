"""The programs inside loops, conditionals and calls, and how their inputs stand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from jax.extend.core import primitives as p

from bwsk_jax.classification.erasure import DEAR, ERASES
from bwsk_jax.classification.values import Standing
from bwsk_jax.engine.program.jaxprs import (
    CUSTOM_DERIVATIVES,
    INLINED,
    Equation,
    Program,
    aval_of,
    subprograms,
)
from bwsk_jax.engine.rules.inverses import INVERSES
from bwsk_jax.engine.rules.registry import is_registered

__all__ = ["AS_WRITTEN", "bodies"]


def _is_transparent(equation: Any) -> bool:
    """Whether a call is read as its body stood in its place."""
    return equation.primitive in (INLINED | CUSTOM_DERIVATIVES) and not is_registered(equation)


AS_WRITTEN = {"merged": False, "inlined": _is_transparent}


def bodies(equation: Equation, standing_of: Callable) -> Iterator[tuple[Program, Program, list[Standing]]]:
    """The programs inside a loop, conditional or call, and how their inputs stand."""
    if _has_rule(equation):
        return
    outer = [standing_of(value) for value in equation.inputs]
    inputs_of = _INPUTS.get(equation.primitive, lambda equation, program, outer, number: outer)
    pairs = zip(subprograms(equation, **AS_WRITTEN), subprograms(equation), strict=True)
    for number, (program, plain) in enumerate(pairs):
        inputs = inputs_of(equation, program, outer, number)
        if len(inputs) != len(program.inputs):  # no call of its body
            return
        yield program, plain, inputs


def _has_rule(equation: Equation) -> bool:
    tables = (INVERSES, DEAR, ERASES)
    return is_registered(equation) or any(equation.primitive in table for table in tables)


def _scan_inputs(equation, program, outer, number):
    """What is scanned over has one axis less inside, and so has what is collected; the rest is carried."""
    rank = lambda aval: len(aval.shape)
    carried = sum(
        rank(outside) == rank(aval_of(program, inside))
        for outside, inside in zip(equation.out_avals, program.outputs, strict=True)
    )
    scanned = sum(
        rank(outside) > rank(aval_of(program, inside))
        for outside, inside in zip(equation.in_avals, program.inputs, strict=True)
    )
    last = len(outer) - scanned
    return [*outer[: last - carried], *[Standing.DATA] * carried, *outer[last:]]


def _while_inputs(equation, program, outer, number):
    counts = (equation.params["cond_nconsts"], equation.params["body_nconsts"])
    start = counts[0] if number else 0
    return [*outer[start : start + counts[number]], *[Standing.DATA] * (len(outer) - sum(counts))]


_INPUTS: dict[Any, Callable[[Equation, Program, list[Standing], int], list[Standing]]] = {
    p.scan_p: _scan_inputs,
    p.while_p: _while_inputs,
    p.cond_p: lambda equation, program, outer, number: outer[1:],
}
