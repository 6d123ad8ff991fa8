"""The verdict on one equation: S with the inverse that shows it, or K with the reason.

An equation may have several inverses. Only those count that yield an operand of the highest role, since the
others are at hand on the way back. Of these the one with the best grade is named, then the one with the least
side information.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

from jax import lax
from jax.extend.core import Literal
from jax.extend.core import primitives as p

from bwsk_jax.classification.costly_inverses import COSTLY_INVERSES, SAME_RESULTS
from bwsk_jax.classification.erasure import why_erased
from bwsk_jax.classification.values import Role, ValueInfo, only_looks
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
    "strict_verdict",
]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What is said of an equation.

    Attributes:
      kind: "S", "~S", "K", or "B" for a loop, conditional or call.
      why: the reason, in a few words.
      inverse: what shows that the equation is S or ~S.
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
    if only_looks(equation):
        return Verdict("S", "it only shows what it reads")
    if _is_dropped(equation, info):
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


def _is_dropped(equation: Equation, info: ValueInfo) -> bool:
    """Whether a result is never read, and no other result says the same."""
    unread = {
        place
        for place, value in enumerate(equation.outputs)
        if nbytes(info.program.avals[value]) and info.readers[value] == 0
    }
    same = SAME_RESULTS.get(equation.primitive, frozenset())
    return bool(unread if same <= unread else unread - same)


def _all_inverses(equation: Equation, info: ValueInfo) -> list[Inverse]:
    costly = COSTLY_INVERSES.get(equation.primitive, lambda *_: ())
    found = [*inverses_of(equation, info.interval), *costly(equation, info)]
    return [inverse for inverse in found if not isinstance(equation.inputs[inverse.operand], Literal)]


def _wanted(equation: Equation, info: ValueInfo) -> set[int]:
    """The values of which one has to come back: the operands of the highest role, and what they come from.

    A contraction of two such operands is read as a map of one of them: of the vector if one is a vector, of
    the larger one if both were computed, and otherwise of the first, since layers are written as x @ w.
    Where elements are written to places, the information is in the elements, and a system of equations is
    read as a map of its right-hand side.
    """
    bearers = [v for v in _bearers(equation) if info.role(v) > Role.KNOWN] or equation.reads
    highest = max(map(info.role, bearers))
    operands = [v for v in bearers if info.role(v) is highest]
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


def _bearers(equation: Equation) -> list[int]:
    """The values among the operands that are looked at first for what has to come back."""
    atoms: Sequence[int | Literal] = equation.inputs
    if equation.primitive in _WRITES_AT_PLACES:
        atoms = (atoms[0], atoms[_WRITES_AT_PLACES[equation.primitive]])
    elif equation.primitive is lax.linear_solve_p:
        atoms = atoms[sum(equation.params["const_lengths"]) :]
    return [v for v in atoms if not isinstance(v, Literal)]


_WRITES_AT_PLACES = {
    **dict.fromkeys((p.scatter_p, p.scatter_add_p, lax.scatter_sub_p, p.scatter_mul_p), 2),
    **dict.fromkeys((p.scatter_min_p, p.scatter_max_p), 2),
    p.dynamic_update_slice_p: 1,
}
"""Primitives that write elements to places of their first operand, and which operand these elements are."""


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
