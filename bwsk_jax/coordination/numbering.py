"""Give every equation of a jaxpr a number that survives lowering, partitioning and compilation."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from jax.extend.core import Jaxpr

__all__ = ["NumberedJaxpr", "number_equations", "number_in"]

_TAG = re.compile(r"equation(\d+)\(\)")


@dataclasses.dataclass(frozen=True, eq=False)
class NumberedJaxpr:
    """A jaxpr of which each equation has its number on its name stack, those of inner jaxprs included."""

    closed: Any
    equations: tuple[Any, ...]
    """The equations by number."""
    parents: tuple[int | None, ...]
    """By number, the equation whose inner jaxpr an equation stands in; None at the top."""

    def trips(self, number: int | None) -> int:
        """How often a loop runs its body, which a scan says; 1 for what does not say so."""
        return 1 if number is None else self.equations[number].params.get("length", 1)

    def axes(self, number: int) -> tuple[str, ...]:
        """The mesh axes over which an equation communicates by itself, as inside a `shard_map`."""
        params = self.equations[number].params
        named = params.get("axes", params.get("axis_name", ()))
        return tuple(named) if isinstance(named, tuple | list) else (named,)


def number_equations(closed: Any) -> NumberedJaxpr:
    """Number the equations of a jaxpr in the order in which they are written, outer before inner ones.

    The number is a scope of the name stack, `equation7()`. JAX writes name stacks into the locations of
    StableHLO, from where they reach the metadata of compiled programs. The scope has the form that
    transformations have, such as `jvp()`, which names of modules leave out.

    >>> import jax
    >>> numbered = number_equations(jax.make_jaxpr(lambda x: jax.numpy.sin(x) + 1)(1.0))
    >>> [(number_in(str(e.source_info.name_stack)), str(e.primitive)) for e in numbered.closed.jaxpr.eqns]
    [(0, 'sin'), (1, 'add')]
    """
    numbering = _Numbering()
    tagged = closed.replace(jaxpr=numbering.jaxpr(closed.jaxpr, None))
    return NumberedJaxpr(tagged, tuple(numbering.equations), tuple(numbering.parents))


def number_in(name: str) -> int | None:
    """The number of the innermost equation that a name stack or a location names; None if it names none."""
    found = _TAG.findall(name)
    return int(found[-1]) if found else None


class _Numbering:
    """Rewrites jaxprs and collects their equations."""

    def __init__(self):
        self.equations: list[Any] = []
        self.parents: list[int | None] = []

    def jaxpr(self, jaxpr: Any, parent: int | None) -> Any:
        return jaxpr.replace(eqns=[self.equation(equation, parent) for equation in jaxpr.eqns])

    def equation(self, equation: Any, parent: int | None) -> Any:
        number = len(self.equations)
        self.equations.append(equation)
        self.parents.append(parent)
        stack = equation.source_info.name_stack.extend(f"equation{number}()")
        params = {key: self.parameter(value, number) for key, value in equation.params.items()}
        return equation.replace(source_info=equation.source_info.replace(name_stack=stack), params=params)

    def parameter(self, value: Any, number: int) -> Any:
        """A parameter of an equation, with the jaxprs in it numbered; newer JAX has one class of jaxprs."""
        if isinstance(value, Jaxpr):
            return self.jaxpr(value, number)
        if _is_closed(value):
            return value.replace(jaxpr=self.jaxpr(value.jaxpr, number))
        if isinstance(value, tuple | list) and any(isinstance(v, Jaxpr) or _is_closed(v) for v in value):
            inner = [self.parameter(v, number) for v in value]
            return type(value)(*inner) if hasattr(value, "_fields") else type(value)(inner)
        return value


def _is_closed(value: Any) -> bool:
    return isinstance(getattr(value, "jaxpr", None), Jaxpr)
