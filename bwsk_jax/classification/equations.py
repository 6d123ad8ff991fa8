"""The verdict on one equation: S with the inverse that shows it, or K with the reason.

An equation may have several inverses. Only those count that yield an operand of the highest role, since the
others are at hand on the way back. Of these the one with the best grade is named, then the one with the least
side information.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

from jax.extend.core import Literal
from jax.extend.core import primitives as p

from bwsk_jax.classification.costly_inverses import COSTLY_INVERSES
from bwsk_jax.classification.erasure import REFERENCE_ERASES, why_erased
from bwsk_jax.classification.values import Role, ValueInfo
from bwsk_jax.engine.program.jaxprs import Equation
from bwsk_jax.engine.program.types import nbytes
from bwsk_jax.engine.rules.exactness import Grade
from bwsk_jax.engine.rules.inverses import Inverse
from bwsk_jax.engine.rules.registry import inverses_of

__all__ = [
    "COMPOSITION",
    "ClassifiedEquation",
    "Verdict",
    "leaving",
    "reference_verdict",
    "strict_verdict",
]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What is said of an equation.

    Attributes:
      kind: "S", "~S", "K", or "B" for a loop, conditional or call.
      why: the reason, in a few words.
      inverse: what shows that the equation is S or ~S. The reference's count names none.
    """

    kind: str
    why: str
    inverse: Inverse | None = None

    @property
    def preserves(self) -> bool:
        """Whether the equation is S or ~S."""
        return self.kind in ("S", "~S")


COMPOSITION = Verdict("B", "the composition of what is inside")
"""The verdict on a loop, conditional or call: the equations inside have verdicts of their own."""


@dataclasses.dataclass(frozen=True)
class ClassifiedEquation:
    """An equation of a body, the number of its line in the report, and the verdict on it."""

    line: int
    equation: Equation
    verdict: Verdict

    @property
    def target(self) -> int | None:
        """The value that the inverse solves for; None if there is no inverse."""
        if self.verdict.inverse is None:
            return None
        atom = self.equation.inputs[self.verdict.inverse.operand]
        return None if isinstance(atom, Literal) else atom

    @property
    def given(self) -> tuple[int, ...]:
        """The values that the inverse reads besides the results: its side information."""
        return () if self.verdict.inverse is None else self.verdict.inverse.side_values(self.equation)


def leaving(equations: Sequence[ClassifiedEquation], info: ValueInfo) -> list[int]:
    """The values that are made by one of these equations and read by something else than these."""
    reads_inside = Counter(v for classified in equations for v in classified.equation.reads)
    made = dict.fromkeys(v for classified in equations for v in classified.equation.outputs)
    return [v for v in made if info.readers[v] > reads_inside[v]]


def strict_verdict(equation: Equation, info: ValueInfo) -> Verdict:
    """S if an operand that has to come back can be solved for, ~S if only up to a narrower type, else K."""
    if not any(nbytes(info.program.avals[v]) for v in equation.reads):
        return Verdict("S", "it has no operand to lose")
    outputs = [v for v in equation.outputs if nbytes(info.program.avals[v])]
    if any(info.readers[v] == 0 for v in outputs):
        return Verdict("K", "computed and dropped")
    wanted = _wanted(equation, info)
    inverses = [
        inverse
        for inverse in _all_inverses(equation, info)
        if equation.inputs[inverse.operand] in wanted and not _may_divide_by_a_mask(equation, info, inverse)
    ]
    if not inverses:
        return Verdict("K", why_erased(equation))
    grades = list(Grade)
    side_bytes = lambda inverse: info.origin_bytes_of(inverse.side_values(equation))
    rank = lambda inverse: (grades.index(inverse.grade), side_bytes(inverse), inverse.operand)
    best = min(inverses, key=rank)
    return Verdict("~S" if best.grade is Grade.NARROWED else "S", _explanation(equation, best), best)


def _all_inverses(equation: Equation, info: ValueInfo) -> list[Inverse]:
    costly = COSTLY_INVERSES.get(equation.primitive, lambda *_: ())
    return [*inverses_of(equation, info.interval), *costly(equation, info.interval)]


def _wanted(equation: Equation, info: ValueInfo) -> set[int]:
    """The values of which one has to come back: the operands of the highest role, and what they come from.

    A contraction of two such operands is read as a map of one of them: of the vector if one is a vector, of
    the larger one if both were computed, and otherwise of the first, since layers are written as x @ w.
    """
    highest = max(map(info.role, equation.reads))
    operands = [v for v in equation.reads if info.role(v) is highest]
    if equation.primitive is not p.dot_general_p:
        return set(operands).union(*(info.roots[v] for v in operands))
    if len(set(operands)) < 2:
        return set(operands)
    avals = equation.in_avals
    vectors = [v for v, aval in zip(operands, avals, strict=True) if len(aval.shape) == 1]
    if len(vectors) == 1:
        return set(vectors)
    if highest is Role.DATA and nbytes(avals[1]) > nbytes(avals[0]):
        return {operands[1]}
    return {operands[0]}


def _may_divide_by_a_mask(equation: Equation, info: ValueInfo, inverse: Inverse) -> bool:
    if equation.primitive is not p.mul_p:
        return False
    other = equation.inputs[1 - inverse.operand]
    return not isinstance(other, Literal) and other in info.masks


def _explanation(equation: Equation, inverse: Inverse) -> str:
    others = inverse.given(equation)
    values = ", ".join(f"operand {k}" for k in others if not isinstance(equation.inputs[k], Literal))
    constants = "constants" if any(isinstance(equation.inputs[k], Literal) for k in others) else ""
    sources = " and ".join(filter(None, ("the result", values, constants)))
    return f"operand {inverse.operand} from {sources}"


def reference_verdict(equation: Equation, info: ValueInfo) -> Verdict:
    """K if dropout and activation functions are made of this primitive, else S."""
    if equation.primitive in REFERENCE_ERASES:
        return Verdict("K", "the reference counts dropout and activations as erasing")
    return Verdict("S", "the reference counts all but dropout and activations as preserving")
