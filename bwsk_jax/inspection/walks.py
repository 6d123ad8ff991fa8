"""Which S-phases of a planned function the backward pass walks back through, and by which inverses."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from bwsk_jax import Plan
from bwsk_jax.classification.equations import strict_verdict
from bwsk_jax.classification.values import Role, ValueInfo
from bwsk_jax.inspection.value_sources import ValueSource, value_sources

__all__ = ["PhaseWalk", "walks"]


@dataclass(frozen=True)
class PhaseWalk:
    """An S-phase of the planned function, and what of it a plan inverts.

    Attributes:
      first, last: the numbers of its first and last equation, from 0.
      inverted: the values that come back by inverses, in the order of the backward pass.
    """

    first: int
    last: int
    inverted: tuple[ValueSource, ...]

    @property
    def bytes(self) -> int:
        """What the inverted values would take if they were saved."""
        return sum(source.bytes for source in self.inverted)

    @property
    def inverses(self) -> str:
        """The inverses with their grades, and how often each is used."""
        counts = Counter(f"{source.primitive} ({source.grade})" for source in self.inverted)
        return ", ".join(name if count == 1 else f"{count} x {name}" for name, count in counts.items())

    @property
    def modules(self) -> str:
        """The modules in which something is inverted."""
        return ", ".join(dict.fromkeys(source.module for source in self.inverted if source.module))


def walks(plan: Plan) -> list[PhaseWalk]:
    """Return the S-phases in the order of the program, those of which nothing is inverted too.

    An S-phase is a run of equations between two that erase, by the strict classification, where whatever
    depends on nothing but parameters is known.
    """
    inverted: dict[int, list[ValueSource]] = {}
    for source in value_sources(plan):
        if source.how == "inverted":
            assert source.equation is not None, "there is an equation that was solved"
            inverted.setdefault(source.equation, []).append(source)
    found = []
    for run in _runs(plan, set(inverted)):
        back = (source for number in reversed(run) for source in inverted.get(number, ()))
        found.append(PhaseWalk(run[0], run[-1], tuple(back)))
    return found


def _runs(plan: Plan, inverted: set[int]) -> Iterator[list[int]]:
    """The runs of equations that preserve information. What a plan inverts is taken for such an equation."""
    program, known = plan.problem.program, plan.problem.parameter_only
    info = ValueInfo(program, [Role.KNOWN if v in known else Role.DATA for v in program.inputs])
    preserves = [
        number in inverted or strict_verdict(equation, info).preserves
        for number, equation in enumerate(program.equations)
    ]
    for preserving, run in itertools.groupby(range(len(preserves)), preserves.__getitem__):
        if preserving:
            yield list(run)
