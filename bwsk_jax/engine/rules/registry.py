"""The inverses of an equation: those of the table, and those that a user has registered."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend.core import Literal, Primitive
from jax.extend.core import primitives as p

from bwsk_jax.engine.program.jaxprs import Equation, source_of, source_of_function
from bwsk_jax.engine.rules.exactness import Grade
from bwsk_jax.engine.rules.intervals import ANY, IntervalOf
from bwsk_jax.engine.rules.inverses import INVERSES, Inverse

__all__ = ["RegisteredInverse", "inverses_of", "is_registered", "register_inverse", "registered_rules"]

_OF_JAX = {*INVERSES, *(value for value in vars(p).values() if isinstance(value, Primitive))}


@dataclasses.dataclass(frozen=True, eq=False)
class _Rule:
    """A user's inverse for one operand, in all calls of what it was registered for."""

    key: Any
    solve: Callable[[Sequence[Any], Sequence[Any]], Any]
    operand: int
    grade: Grade
    amplification: float
    condition: str

    def inverse(self, equation: Equation) -> Inverse:
        """The inverse of one call. A function with a custom derivative has constants before its arguments."""
        first = equation.params.get("num_consts", 0) if source_of(equation) else 0
        place, count = first + self.operand, len(equation.inputs) - first
        if self.operand >= count:
            raise ValueError(f"{self.key} has a rule for operand {self.operand}, and is called with {count}")

        def apply(operands, outputs):
            found, wanted = self.solve(operands[first:], outputs), equation.in_avals[place]
            given = jax.typeof(found)
            if (given.shape, given.dtype) != (wanted.shape, wanted.dtype):
                raise ValueError(
                    f"the rule of {self.key} gave {given} for operand {self.operand}, which is {wanted}"
                )
            return found

        return Inverse(place, apply, self.grade, self.amplification, condition=self.condition)


_REGISTERED: dict[Any, dict[int, _Rule]] = {}
"""The rules of users by what they are registered for, and by operand."""


@dataclasses.dataclass(frozen=True, eq=False)
class RegisteredInverse(contextlib.AbstractContextManager):
    """A rule that `register_inverse` has taken up, which stays until it is removed."""

    _rule: _Rule

    def remove(self) -> None:
        """Take the rule out again. Nothing happens if it has gone, or another one has taken its place."""
        rules = _REGISTERED.get(self._rule.key, {})
        if rules.get(self._rule.operand) is self._rule:
            del rules[self._rule.operand]
            if not rules:
                del _REGISTERED[self._rule.key]

    def __exit__(self, *_: Any) -> None:
        self.remove()


def inverses_of(equation: Equation, interval_of: IntervalOf = lambda _: ANY) -> list[Inverse]:
    """All inverses of this equation. There is none for an operand that is a literal: it is known anyway."""
    entry = INVERSES.get(equation.primitive)
    found = [] if entry is None else list(entry(equation, interval_of))
    own = [rule.inverse(equation) for rule in _REGISTERED.get(_identity(equation), {}).values()]
    found += [i for i in own if equation.inputs.count(equation.inputs[i.operand]) == 1]
    return [i for i in found if not isinstance(equation.inputs[i.operand], Literal)]


def _identity(equation: Any) -> Any:
    """What a user's rule is registered under: the function of a call with a custom derivative, else the
    primitive."""
    return source_of(equation) or equation.primitive


def is_registered(equation: Any) -> bool:
    """Whether a user has a rule for the equation."""
    return _identity(equation) in _REGISTERED


def registered_rules() -> frozenset[Any]:
    """All rules that users have registered by now."""
    return frozenset(rule for rules in _REGISTERED.values() for rule in rules.values())


def register_inverse(
    target: Any,
    solve: Callable[[Sequence[Any], Sequence[Any]], Any],
    *,
    operand: int = 0,
    grade: Grade | str = Grade.GUARDED,
    amplification: float = 1.0,
    condition: str = "",
) -> RegisteredInverse:
    """Say how your own primitive, or your function with a custom derivative, is solved for an operand.

    `classify` uses it for both, `reversible` and `reversible_scan` for primitives: of a function with a
    custom derivative they see what its forward rule is made of. Such a function is known by where it was
    defined: those that one definition makes, such as closures over different constants, share their rules.
    A second rule for the same operand takes the place of the first. What is returned takes the rule out
    again, by `remove()` or at the end of a `with` statement.

    Args:
      target: a `jax.extend.core.Primitive`, or what `jax.custom_vjp` or `jax.custom_jvp` returned.
      solve: `solve(operands, outputs)` returns the operand; `operands[operand]` is None.
      operand: its place among the primitive's operands, or among the leaves of the function's arguments.
      grade: how far the result can be trusted, "exact", "relative", "rounded", "guarded" or "narrowed". If in
        doubt "guarded", the default: then it runs only where its error, estimated to first order, is small.
      amplification: by what factor it multiplies an absolute error of the output.
      condition: where it holds, in words, for the report.

    Raises:
      ValueError: `target` is one of JAX's own primitives, or a value is out of range. Where the rule is used:
        a call has no such operand, or `solve` gives another type than the operand's.
      TypeError: `target` is neither a primitive nor has a custom derivative, or `solve` is no function.

    >>> import bwsk_jax, jax
    >>> @jax.custom_vjp
    ... def double(x):
    ...     return 2 * x
    >>> double.defvjp(lambda x: (2 * x, None), lambda _, cotangent: (2 * cotangent,))
    >>> rule = bwsk_jax.register_inverse(double, lambda operands, outputs: outputs[0] / 2, grade="relative")
    >>> [line.kind for line in bwsk_jax.classify(double, 1.0).lines]
    ['S']
    """
    if isinstance(target, Primitive) and target in _OF_JAX:
        raise ValueError(f"{target} is JAX's own: register your own primitives and functions")
    key = target if isinstance(target, Primitive) else source_of_function(target)
    grade = Grade(grade)
    if not callable(solve):
        raise TypeError(f"solve is {solve!r}, and has to be a function of operands and outputs")
    if operator.index(operand) < 0:
        raise ValueError(f"operand is {operand}, and has to be a place from 0")
    if not 0 < amplification < math.inf:
        raise ValueError(f"amplification is {amplification}, and has to be positive and finite")

    rule = _Rule(key, solve, operand, grade, amplification, condition)
    _REGISTERED.setdefault(key, {})[operand] = rule
    return RegisteredInverse(rule)
