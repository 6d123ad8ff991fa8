"""What is known of a program's values without computing them.

Which operand of an equation matters: `x + bias` should give back x, not the bias. So values have a standing:
`DATA` was computed (or is an argument that the caller names), an `ARGUMENT` may be data or a parameter, and
what is `KNOWN` depends on nothing that is followed.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable, Sequence

from jax import lax
from jax.extend.core import Literal
from jax.extend.core import primitives as p

from bwsk_jax.engine.program.jaxprs import Equation, Program
from bwsk_jax.engine.program.types import nbytes
from bwsk_jax.engine.rules import intervals

__all__ = ["Facts", "Standing"]


class Standing(enum.IntEnum):
    """How likely it is that a value carries the information that is looked for."""

    KNOWN = 0
    ARGUMENT = 1
    DATA = 2


class Facts:
    """What is known of the values of one program without computing them.

    `origin_bytes[v]` is the size of v where it was smallest on its way, `roots[v]` are the inputs that it was
    computed from, `masks` hold values that may be 0 because they were a condition, and `readers[v]` counts
    who reads v, the program's outputs included.
    """

    def __init__(self, program: Program, standings: Sequence[Standing]):
        self.program = program
        self.standings = dict.fromkeys(program.constants, Standing.KNOWN)
        self.standings |= dict(zip(program.inputs, standings, strict=True))
        self.origin_bytes = {v: nbytes(program.avals[v]) for v in self.standings}
        self.roots = {v: frozenset([v]) for v in self.standings}
        self.masks: set[int] = set()
        self._bounds = intervals.Bounds()
        for equation in program.equations:
            self._add(equation)
        self.readers = Counter(v for e in program.equations for v in e.reads)
        self.readers.update(v for v in program.outputs if not isinstance(v, Literal))

    def _add(self, equation: Equation) -> None:
        moves = equation.primitive in _MOVES and len(equation.reads) == 1
        standing = max(map(self.standing, equation.inputs), default=Standing.KNOWN)
        if standing is Standing.ARGUMENT and not moves:
            standing = Standing.DATA
        self._bounds.add(equation)
        was_bool = moves and equation.in_avals[0].dtype == bool
        scales = moves or equation.primitive in (p.mul_p, p.div_p)
        masked = was_bool or (scales and not self.masks.isdisjoint(equation.reads))
        roots = frozenset().union(*(self.roots[v] for v in equation.reads))
        for value, aval in zip(equation.outputs, equation.out_avals, strict=True):
            self.roots[value] = roots
            self.standings[value] = standing
            self.origin_bytes[value] = nbytes(aval)
            if moves:
                self.origin_bytes[value] = min(nbytes(aval), self.origin_bytes[equation.reads[0]])
            if masked:
                self.masks.add(value)

    def bytes(self, values: Iterable[int]) -> int:
        """Size of distinct values."""
        return sum(nbytes(self.program.avals[v]) for v in dict.fromkeys(values))

    def standing(self, atom: int | Literal) -> Standing:
        """Of a value or literal."""
        return Standing.KNOWN if isinstance(atom, Literal) else self.standings[atom]

    def interval(self, atom: int | Literal) -> intervals.Interval:
        """Bounds of a value or literal."""
        return self._bounds.of(atom)


_MOVES = {
    *(p.reshape_p, p.squeeze_p, p.broadcast_in_dim_p, p.transpose_p, p.rev_p, p.copy_p, p.stop_gradient_p),
    *(p.convert_element_type_p, p.name_p, p.slice_p, lax.tile_p, p.sharding_constraint_p),
}
"""What hands its operand on in another form: a parameter stays a parameter."""
