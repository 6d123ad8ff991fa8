"""The programs that a report descends into: those that loops, conditionals and calls run."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jax.extend.core import Literal
from jax.extend.core import primitives as p

from bwsk_jax.classification.costly_inverses import COSTLY_INVERSES
from bwsk_jax.classification.erasure import ERASES
from bwsk_jax.classification.values import Role, ValueInfo
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

__all__ = ["UNMERGED", "Body", "inner_programs"]


def _is_transparent(equation: Any) -> bool:
    """Whether a call is read as if its body stood in its place."""
    return equation.primitive in (INLINED | CUSTOM_DERIVATIVES) and not is_registered(equation)


UNMERGED: dict[str, Any] = {"merged": False, "inlined": _is_transparent}
"""How to flatten a jaxpr for a report: an equation that is written twice is two, and custom derivatives are
looked into, unless the user has registered an inverse of the whole call."""


@dataclasses.dataclass(frozen=True, eq=False)
class Body:
    """A program to classify: the whole function, or what a loop, conditional or call in it runs.

    Attributes:
      number: its place in the order of visits. A report names a value by it, as `number:value`.
      program: the program as it was written, by `UNMERGED`.
      differentiated: the same program as JAX differentiates it, with custom derivatives left whole.
      roles: the roles of the program's inputs.
      parent: the line of the equation that runs it; None at the top.
      depth: how many bodies it stands in.
      repeats: how often it is evaluated, as far as that is known.
      module: the module in which it is run.
    """

    number: int
    program: Program
    differentiated: Program
    roles: Sequence[Role]
    parent: int | None = None
    depth: int = 0
    repeats: int = 1
    module: str = ""

    @functools.cached_property
    def info(self) -> ValueInfo:
        """What is known of the program's values."""
        return ValueInfo(self.program, self.roles)

    def label(self, atom: int | Literal) -> str:
        """The name of a value in the report; a literal is written out."""
        return str(atom.val) if isinstance(atom, Literal) else f"{self.number}:{atom}"


def inner_programs(equation: Equation, info: ValueInfo) -> Iterator[tuple[Program, Program, list[Role]]]:
    """The programs that an equation runs, if the report is to descend into it.

    Yields for each the program as written, the same as JAX differentiates it, and the roles of its inputs.
    """
    if _has_rule(equation):
        return
    outer = [info.role(atom) for atom in equation.inputs]
    roles_of = _INPUT_ROLES.get(equation.primitive, lambda equation, program, outer, number: outer)
    pairs = zip(subprograms(equation, **UNMERGED), subprograms(equation), strict=True)
    for number, (program, differentiated) in enumerate(pairs):
        roles = roles_of(equation, program, outer, number)
        if len(roles) != len(program.inputs):  # the equation does not call it with its own operands
            return
        yield program, differentiated, roles


def _has_rule(equation: Equation) -> bool:
    """Whether an equation is classed as a whole, such as a reduction by a function of the user's."""
    tables = (INVERSES, COSTLY_INVERSES, ERASES)
    return is_registered(equation) or any(equation.primitive in table for table in tables)


def _scan_roles(equation, program, outer, number):
    """The roles of a scan's constants, carry and slices; a carry is computed, whatever it starts as.

    What is scanned over has one axis less inside, and so has what is collected: this tells them from the
    carry.
    """
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
    return [*outer[: last - carried], *[Role.DATA] * carried, *outer[last:]]


def _while_roles(equation, program, outer, number):
    """The roles of the constants and the carry, of the condition (program 0) or of the body (program 1)."""
    counts = (equation.params["cond_nconsts"], equation.params["body_nconsts"])
    start = counts[0] if number else 0
    return [*outer[start : start + counts[number]], *[Role.DATA] * (len(outer) - sum(counts))]


_INPUT_ROLES: dict[Any, Callable[[Equation, Program, list[Role], int], list[Role]]] = {
    p.scan_p: _scan_roles,
    p.while_p: _while_roles,
    p.cond_p: lambda equation, program, outer, number: outer[1:],
}
"""Maps a primitive to the roles of the inputs of each program it runs, given its operands' roles and the
program's number. A primitive that is not here hands its operands on as they are."""
