"""What is said of one equation: S with the inverse that shows it, or K with the reason."""

from __future__ import annotations

import dataclasses

from jax.extend.core import Literal
from jax.extend.core import primitives as p

from bwsk_jax.classification.erasure import DEAR, REFERENCE_ERASES, why_erased
from bwsk_jax.classification.values import Facts, Standing
from bwsk_jax.engine.program.jaxprs import Equation
from bwsk_jax.engine.program.types import nbytes
from bwsk_jax.engine.rules.exactness import Grade
from bwsk_jax.engine.rules.inverses import Inverse
from bwsk_jax.engine.rules.registry import inverses_of

__all__ = ["Claim", "Entry", "reference_claim", "strict_claim"]


@dataclasses.dataclass(frozen=True)
class Claim:
    """What is said of an equation; `inverse` shows it if it is S."""

    kind: str
    why: str
    inverse: Inverse | None = None

    def given(self, equation: Equation) -> tuple[int, ...]:
        """The values that the inverse takes besides the results."""
        if self.inverse is None:
            return ()
        read = self.inverse.reads
        others = range(len(equation.inputs)) if read is None else read
        atoms = (equation.inputs[k] for k in others if k != self.inverse.operand)
        return tuple(dict.fromkeys(v for v in atoms if not isinstance(v, Literal)))


def strict_claim(equation: Equation, facts: Facts) -> Claim:
    """S if an operand that matters can be solved for."""
    if not any(nbytes(facts.program.avals[v]) for v in equation.reads):
        return Claim("S", "it has no operand to lose")
    outputs = [v for v in equation.outputs if nbytes(facts.program.avals[v])]
    if any(facts.readers[v] == 0 for v in outputs):
        return Claim("K", "computed and dropped")
    leading = _leading(equation, facts)
    claims = [
        Claim("~S" if inverse.grade is Grade.NARROWED else "S", "", inverse)
        for inverse in _inverses(equation, facts)
        if equation.inputs[inverse.operand] in leading and not _may_be_masked(equation, facts, inverse)
    ]
    if not claims:
        return Claim("K", why_erased(equation))
    side = lambda claim: sum(facts.origin_bytes[v] for v in claim.given(equation))
    rank = lambda claim: (list(Grade).index(claim.inverse.grade), side(claim), claim.inverse.operand)
    best = min(claims, key=rank)
    read = best.inverse.reads if best.inverse.reads is not None else range(len(equation.inputs))
    others = [k for k in read if k != best.inverse.operand]
    values = ", ".join(f"operand {k}" for k in others if not isinstance(equation.inputs[k], Literal))
    constants = "constants" if any(isinstance(equation.inputs[k], Literal) for k in others) else ""
    sources = " and ".join(filter(None, ("the result", values, constants)))
    return dataclasses.replace(best, why=f"operand {best.inverse.operand} from {sources}")


def _inverses(equation: Equation, facts: Facts) -> list[Inverse]:
    dear = DEAR.get(equation.primitive, lambda *_: ())
    return [*inverses_of(equation, facts.interval), *dear(equation, facts.interval)]


def _leading(equation: Equation, facts: Facts) -> set[int]:
    """The operands that would have to come back: those of the highest standing, and what they come from.

    A contraction of two of them is read as a map of the vector, of the larger one if both were computed,
    and of the first otherwise, as layers and their inputs are written.
    """
    highest = max(map(facts.standing, equation.reads))
    leading = [v for v in equation.reads if facts.standing(v) is highest]
    if equation.primitive is not p.dot_general_p:
        return set(leading).union(*(facts.roots[v] for v in leading))
    if len(set(leading)) < 2:
        return set(leading)
    avals = equation.in_avals
    vectors = [v for v, aval in zip(leading, avals, strict=True) if len(aval.shape) == 1]
    if len(vectors) == 1:
        return set(vectors)
    if highest is Standing.DATA and nbytes(avals[1]) > nbytes(avals[0]):
        return {leading[1]}
    return {leading[0]}


def _may_be_masked(equation: Equation, facts: Facts, inverse: Inverse) -> bool:
    """Whether the inverse would divide by a mask."""
    if equation.primitive is not p.mul_p:
        return False
    other = equation.inputs[1 - inverse.operand]
    return not isinstance(other, Literal) and other in facts.masks


def reference_claim(equation: Equation, facts: Facts) -> Claim:
    """K if dropout and activations are made of it."""
    if equation.primitive in REFERENCE_ERASES:
        return Claim("K", "the reference counts dropout and activations as erasing")
    return Claim("S", "the reference counts all but dropout and activations as preserving")


@dataclasses.dataclass(frozen=True)
class Entry:
    """An equation of a body, its line's number, and what is said of it: nothing if it is a composition."""

    line: int
    equation: Equation
    claim: Claim | None
