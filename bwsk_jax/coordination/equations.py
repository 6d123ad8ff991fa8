"""What is known of a numbered equation: its primitive, module and source, and whether it is S or K."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from bwsk_jax.classification.bodies import UNMERGED, Body, inner_programs
from bwsk_jax.classification.equations import COMPOSITION, strict_verdict
from bwsk_jax.classification.modules import module_name
from bwsk_jax.classification.values import Role
from bwsk_jax.coordination.numbering import NumberedJaxpr, number_in
from bwsk_jax.engine.program.jaxprs import Equation, flatten

__all__ = ["NumberedEquation", "describe_equations"]


@dataclasses.dataclass(frozen=True, eq=False)
class NumberedEquation:
    """An equation and the body of the program that it stands in."""

    equation: Equation
    body: Body
    is_composed: bool
    """Whether it is a loop, conditional or call, of which the equations inside are described too."""
    is_manual: bool
    """Whether it stands inside a `shard_map`, where each device computes on its own shards."""

    @property
    def primitive(self) -> str:
        """The name of its primitive."""
        return str(self.equation.primitive)

    @property
    def module(self) -> str:
        """The module that it stands in, with those around it; "" outside of modules."""
        return module_name(self.body, self.equation)

    @property
    def source(self) -> str:
        """The file, line and function that wrote it."""
        return self.equation.line

    @functools.cached_property
    def kind(self) -> str:
        """S, ~S or K by the strict count of `bwsk_jax.classify`; B if it is composed."""
        verdict = COMPOSITION if self.is_composed else strict_verdict(self.equation, self.body.info)
        return verdict.kind


def describe_equations(numbered: NumberedJaxpr) -> dict[int, NumberedEquation]:
    """The equations by number. What stands inside an equation that is judged as a whole counts as it."""
    program = flatten(numbered.closed, hoist=True, **UNMERGED)
    arguments = len(numbered.closed.jaxpr.invars)
    roles = [Role.KNOWN] * (len(program.inputs) - arguments) + [Role.ARGUMENT] * arguments
    found: dict[int, NumberedEquation] = {}
    _describe(Body(0, program, program, roles), found, is_manual=False)
    for number, parent in enumerate(numbered.parents):  # parents come first
        if number not in found and parent is not None and parent in found:
            found[number] = found[parent]
    return found


def _describe(body: Body, found: dict[int, NumberedEquation], is_manual: bool) -> None:
    for equation in body.program.equations:
        inner: Sequence[Any] = list(inner_programs(equation, body.info))
        number = number_in(equation.module)
        assert number is not None, equation
        found[number] = NumberedEquation(equation, body, bool(inner), is_manual)
        manual = is_manual or equation.primitive.name == "shard_map"
        for program, differentiated, roles in inner:
            module = module_name(body, equation)
            _describe(
                Body(0, program, differentiated, roles, depth=body.depth + 1, module=module), found, manual
            )
