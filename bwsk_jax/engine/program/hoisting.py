"""What the body of a loop computes of constants alone, computed once before the loop.

`jax.lax.scan` keeps one copy of such a value for the derivative of all iterations. A plan that saved it in
each iteration would keep as many. Before the loop it is differentiated once as well, by JAX.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from jax import lax
from jax.extend.core import Literal
from jax.extend.core import primitives as p

from bwsk_jax.engine.program.jaxprs import Program, contains, present
from bwsk_jax.engine.program.types import digits, nbytes

__all__ = ["MOVES", "Hoisted", "hoisted"]

MOVES = {
    *(p.reshape_p, p.squeeze_p, p.broadcast_in_dim_p, p.transpose_p, p.rev_p, p.slice_p, p.concatenate_p),
    *(p.convert_element_type_p, p.bitcast_convert_type_p, p.copy_p, p.stop_gradient_p, p.name_p, p.iota_p),
    *(lax.split_p, lax.stack_p, lax.unstack_p, lax.tile_p, p.pad_p, lax.optimization_barrier_p),
    *(p.real_p, p.imag_p, p.complex_p, p.conj_p, p.gather_p, p.dynamic_slice_p, p.dynamic_update_slice_p),
    *present("pvary_p"),
}
"""Primitives that only move data or change its type."""

_STAYING = {p.custom_vjp_call_p, p.while_p}
"""What stays in the body. A user's rule need not be linear, and is to be that of each iteration. Through a
`while_loop` JAX refuses to pull back even a cotangent that nothing has contributed to."""


class Hoisted(NamedTuple):
    """A body in two parts.

    Attributes:
      before: of the constants of the body, those of `body`.
      body: the rest; its first inputs are what `before` gives.
    """

    before: Program
    body: Program


def hoisted(program: Program, num_consts: int) -> Hoisted:
    """Split a body whose first inputs are constants.

    Values that only move data stay, because a compiler reads the data where it is. So do those that take more
    bytes than the constants that they are made of, and what has effects or communicates. What has fewer
    digits than one of its sources stays too, or the cotangents of all iterations would be added in these.
    """
    consts, others = program.inputs[:num_consts], program.inputs[num_consts:]
    made_of = {v: frozenset({v}) for v in (*consts, *program.constants)}
    constant, moved = [], set()
    bytes_of = lambda values: sum(nbytes(program.avals[v]) for v in values)
    for equation in program.equations:
        stays = equation.effects or equation.axes or contains(equation, _STAYING)
        if stays or not made_of.keys() >= set(equation.reads):
            continue
        sources = frozenset[int]().union(*(made_of[v] for v in equation.reads))
        constant.append(equation)
        made_of.update(dict.fromkeys(equation.outputs, sources))
        finest = max((digits(program.avals[v]) for v in sources), default=0)
        is_narrow = any(0 < digits(program.avals[v]) < finest for v in equation.outputs)
        is_small = bytes_of(equation.outputs) <= bytes_of(sources)
        if equation.primitive not in MOVES and is_small and not is_narrow:
            moved.add(equation)
    staying = tuple(e for e in program.equations if e not in moved)
    rest = dataclasses.replace(program, equations=staying).needed(program.outputs)
    read = {v for e in rest for v in e.reads}.union(v for v in program.outputs if not isinstance(v, Literal))
    given = (*consts, *(v for equation in program.equations if equation in moved for v in equation.outputs))
    inputs = tuple(v for v in given if v in read)
    return Hoisted(
        dataclasses.replace(program, inputs=consts, outputs=inputs, equations=tuple(constant)),
        dataclasses.replace(program, inputs=(*inputs, *others), equations=tuple(rest)),
    )
