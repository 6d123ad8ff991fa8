"""What is known of a program's values without computing them.

`x + bias` can be solved for either operand, but a report asks for `x`: the bias is at hand anyway. So every
value has a `Role`, which says whether it has to come back or may be read on the way back.
"""

from __future__ import annotations

import enum
import functools
from collections import Counter
from collections.abc import Iterable, Sequence

import jax.numpy as jnp
from jax import lax
from jax.extend.core import Literal
from jax.extend.core import primitives as p

from bwsk_jax.classification.functions import Occurrence, occurrences
from bwsk_jax.engine.program.jaxprs import Equation, Program
from bwsk_jax.engine.program.types import nbytes
from bwsk_jax.engine.rules import intervals

__all__ = ["Role", "ValueInfo", "only_looks"]


class Role(enum.IntEnum):
    """How likely a value is to carry the information that is followed; of two operands the higher counts.

    `KNOWN` depends on nothing that is followed. An `ARGUMENT` of the function may be data or a parameter:
    the caller did not say. `DATA` was computed from an argument, or is one that the caller named.
    """

    KNOWN = 0
    ARGUMENT = 1
    DATA = 2


def only_looks(equation: Equation) -> bool:
    """Whether an equation shows what it reads to somebody, as a print does, and computes nothing."""
    writes = any(hasattr(aval, "inner_aval") for aval in equation.in_avals)
    return not equation.outputs and not writes


class ValueInfo:
    """What is known of the values of one program. Values are numbers, as in `Program`.

    Attributes:
      program: the program that the values belong to.
      roles: the role of each value.
      origin_bytes: the size of each value where it was smallest on its way, such as before a broadcast.
      roots: the inputs and constants that each value was computed from.
      masks: the values that were made from booleans. They may be 0, so nothing should be divided by them.
      numbers: the values that number their elements along an axis, from 0, and that axis.
      bounds: the interval that each computed value lies in.
      readers: how often each value is read. An output of the program counts as one more reader, and an
        equation that only looks, such as a print, as none.
    """

    def __init__(self, program: Program, input_roles: Sequence[Role]):
        self.program = program
        self.roles = dict.fromkeys(program.constants, Role.KNOWN)
        self.roles |= dict(zip(program.inputs, input_roles, strict=True))
        self.origin_bytes = {v: nbytes(program.avals[v]) for v in self.roles}
        self.roots = {v: frozenset([v]) for v in self.roles}
        self.masks: set[int] = set()
        self.numbers: dict[int, int] = {}
        self.bounds = intervals.Bounds()
        for equation in program.equations:
            self._add(equation)
        self.readers = Counter(v for e in program.equations if not only_looks(e) for v in e.reads)
        self.readers.update(v for v in program.outputs if not isinstance(v, Literal))

    def _add(self, equation: Equation) -> None:
        """Learn what an equation says of its outputs."""
        moves = equation.primitive in _MOVES and len(equation.reads) == 1
        role = max(map(self.role, equation.inputs), default=Role.KNOWN)
        if role is Role.ARGUMENT and not moves:
            role = Role.DATA
        self.bounds.add(equation)
        self._add_numbers(equation)
        was_bool = moves and equation.in_avals[0].dtype == bool
        scales = moves or equation.primitive in (p.mul_p, p.div_p)
        masked = was_bool or (scales and not self.masks.isdisjoint(equation.reads))
        roots = frozenset().union(*(self.roots[v] for v in equation.reads))
        for value, aval in zip(equation.outputs, equation.out_avals, strict=True):
            self.roots[value] = roots
            self.roles[value] = role
            self.origin_bytes[value] = nbytes(aval)
            if moves:
                self.origin_bytes[value] = min(nbytes(aval), self.origin_bytes[equation.reads[0]])
            if masked:
                self.masks.add(value)

    def _add_numbers(self, equation: Equation) -> None:
        """Learn whether an equation numbers elements, or hands on what does."""
        axis = None
        if equation.primitive is p.iota_p:
            axis = equation.params["dimension"]
        elif len(equation.reads) == len(equation.inputs) == 1 and equation.reads[0] in self.numbers:
            axis = self.numbers[equation.reads[0]]
            if equation.primitive is p.broadcast_in_dim_p:
                size, axis = equation.in_avals[0].shape[axis], equation.params["broadcast_dimensions"][axis]
                axis = axis if equation.out_avals[0].shape[axis] == size else None
            elif equation.primitive is p.transpose_p:
                axis = equation.params["permutation"].index(axis)
            elif equation.primitive not in (p.convert_element_type_p, p.copy_p):
                return
        if axis is not None:
            (aval,) = equation.out_avals
            whole = jnp.issubdtype(aval.dtype, jnp.integer)
            if whole and aval.shape[axis] - 1 <= jnp.iinfo(aval.dtype).max:
                self.numbers[equation.outputs[0]] = axis

    @functools.cached_property
    def functions(self) -> list[Occurrence]:
        """Where a function is computed that preserves, although some of its equations erase."""
        return list(occurrences(self.program, self.interval))

    def bytes(self, values: Iterable[int]) -> int:
        """The size of these values together; one that is named twice counts once."""
        return sum(nbytes(self.program.avals[v]) for v in dict.fromkeys(values))

    def origin_bytes_of(self, values: Iterable[int]) -> int:
        """The same, but each value counts as it was where it was smallest on its way."""
        return sum(self.origin_bytes[v] for v in dict.fromkeys(values))

    def role(self, atom: int | Literal) -> Role:
        """The role of a value or literal."""
        return Role.KNOWN if isinstance(atom, Literal) else self.roles[atom]

    def interval(self, atom: int | Literal) -> intervals.Interval:
        """The bounds of a value or literal."""
        return self.bounds.of(atom)


_MOVES = {
    *(p.reshape_p, p.squeeze_p, p.broadcast_in_dim_p, p.transpose_p, p.rev_p, p.copy_p, p.stop_gradient_p),
    *(p.convert_element_type_p, p.name_p, p.slice_p, lax.tile_p, p.sharding_constraint_p),
}
"""Primitives that hand their operand on in another form: what is a parameter stays one."""
