"""Walk through a function and class every equation as S (it preserves information) or K (it erases it).

This file is the walk. What is said of an equation is decided in `equations`, of a run of equations in
`phases`, of a module in `modules`.
"""

from __future__ import annotations

import dataclasses
import operator
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import jax

from bwsk_jax.classification.bodies import UNMERGED, Body, inner_programs
from bwsk_jax.classification.equations import (
    COMPOSITION,
    ClassifiedEquation,
    Verdict,
    strict_verdict,
)
from bwsk_jax.classification.modules import (
    mark_leaves,
    module_name,
    modules,
    preserves_strictly,
)
from bwsk_jax.classification.phases import phases
from bwsk_jax.classification.reference import preserves_by_reference, reference_verdict
from bwsk_jax.classification.report import Line, Module, Phase, Report
from bwsk_jax.classification.values import Role, ValueInfo
from bwsk_jax.engine.program.jaxprs import Equation, trace
from bwsk_jax.engine.rules import costs
from bwsk_jax.engine.rules.exactness import Grade

__all__ = ["classify"]


def classify(
    fun: Callable,
    *args: Any,
    wrt: int | Sequence[int] | None = None,
    taxonomy: Literal["strict", "reference"] = "strict",
) -> Report:
    """Say of every equation of `fun` whether it preserves information (S) or erases it (K), and why.

    Loops, conditionals, calls and custom derivatives are descended into. The function is traced, not run.

    Args:
      fun: a function of pytrees of arrays.
      *args: its arguments, as arrays or `jax.ShapeDtypeStruct`s.
      wrt: the numbers of the arguments whose information is followed. The others count as parameters, which
        the way back may read. By default all are followed, and what was computed from them goes before them.
      taxonomy: "strict", or "reference", which counts leaf modules as the PyTorch original does by their
        kind: dropout, activation functions, softmax, pooling, strided convolutions and batch normalisation in
        training are K, and all else is S.

    Raises:
      TypeError, ValueError: `wrt` names no argument, or `taxonomy` is neither of the two.

    >>> import bwsk_jax, jax, jax.numpy as jnp
    >>> x, w = jax.ShapeDtypeStruct((4, 8), jnp.float32), jax.ShapeDtypeStruct((8, 2), jnp.float32)
    >>> for line in bwsk_jax.classify(lambda x, w: jnp.exp(x) @ w, x, w).lines:
    ...     print(line.kind, line.primitive, "|", line.why)
    S exp | operand 0 from the result
    K dot_general | a projection to fewer dimensions
    """
    if taxonomy not in ("strict", "reference"):
        raise ValueError(f'taxonomy is {taxonomy!r}, and has to be "strict" or "reference"')
    leaves, tree = jax.tree.flatten(args)
    flat = lambda *leaves: fun(*jax.tree.unflatten(tree, leaves))
    named = _argument_numbers(wrt, len(args))
    program, consts, _ = trace(flat, *leaves, **UNMERGED)
    differentiated, _, _ = trace(flat, *leaves)
    followed = Role.ARGUMENT if wrt is None else Role.DATA
    roles = [Role.KNOWN] * len(consts)
    for number, arg in enumerate(args):
        role = followed if number in named else Role.KNOWN
        roles += [role] * len(jax.tree.leaves(arg))
    walk = _Walk(taxonomy, _TAXONOMIES[taxonomy])
    walk.visit(Body(0, program, differentiated, roles))
    return walk.report()


def _argument_numbers(wrt: int | Sequence[int] | None, count: int) -> set[int]:
    """The arguments that `wrt` names, from 0."""
    if wrt is None:
        return set(range(count))
    try:
        named = [operator.index(n) for n in (wrt if isinstance(wrt, Iterable) else [wrt])]
    except TypeError:
        raise TypeError(f"wrt is {wrt!r}, and has to be the number of an argument, or several") from None
    if strangers := [n for n in named if not -count <= n < count]:
        raise ValueError(f"wrt names argument {strangers[0]}, and the function is given {count}")
    return {n % count for n in named}


@dataclasses.dataclass(frozen=True)
class _Taxonomy:
    """How equations and modules are judged."""

    verdict: Callable[[Equation, ValueInfo], Verdict]
    preserves: Callable[[Sequence[ClassifiedEquation], ValueInfo], bool]


_TAXONOMIES = {
    "strict": _Taxonomy(strict_verdict, preserves_strictly),
    "reference": _Taxonomy(reference_verdict, preserves_by_reference),
}


@dataclasses.dataclass
class _Walk:
    """Visits a body and, depth first, the bodies inside it, and collects what the report says of them."""

    name: str
    taxonomy: _Taxonomy
    lines: list[Line] = dataclasses.field(default_factory=list)
    phases: list[Phase] = dataclasses.field(default_factory=list)
    modules: list[Module] = dataclasses.field(default_factory=list)
    values: Counter[str] = dataclasses.field(default_factory=lambda: Counter(B=0, W=0, K=0))
    bodies: int = 0

    def visit(self, body: Body) -> None:
        """Collect what there is to say of a body and of all bodies inside it."""
        self.bodies += 1
        equations = []
        for equation in body.program.equations:
            inner = list(inner_programs(equation, body.info))
            verdict = COMPOSITION if inner else self.taxonomy.verdict(equation, body.info)
            classified = ClassifiedEquation(len(self.lines), equation, verdict)
            equations.append(classified)
            self.lines.append(_line(classified, body))
            for program, differentiated, roles in inner:
                self.visit(
                    Body(
                        number=self.bodies,
                        program=program,
                        differentiated=differentiated,
                        roles=roles,
                        parent=classified.line,
                        depth=body.depth + 1,
                        repeats=body.repeats * equation.params.get("length", 1),
                        module=module_name(body, equation),
                    )
                )
        self.phases += phases(body, equations)
        self.modules += modules(body, equations, self.taxonomy.preserves)
        self.count_readers(body)

    def count_readers(self, body: Body) -> None:
        """Count the values of a body by the combinator that hands them on."""
        made = (v for equation in body.program.equations for v in equation.outputs)
        for value in (*body.program.inputs, *made):
            readers = body.info.readers[value]
            self.values["W" if readers > 1 else "B" if readers else "K"] += body.repeats

    def report(self) -> Report:
        """What was collected."""
        leaves = tuple(mark_leaves(self.modules))
        return Report(self.name, tuple(self.lines), tuple(self.phases), leaves, dict(self.values))


_CONDITIONAL = (Grade.GUARDED, Grade.NARROWED)


def _line(classified: ClassifiedEquation, body: Body) -> Line:
    equation, verdict, inverse = classified.equation, classified.verdict, classified.verdict.inverse
    return Line(
        number=classified.line,
        parent=body.parent,
        depth=body.depth,
        kind=verdict.kind,
        primitive=str(equation.primitive),
        why=verdict.why,
        operand=None if inverse is None else inverse.operand,
        given=tuple(map(body.label, classified.given)),
        side_bytes=body.info.origin_bytes_of(classified.given),
        grade="" if inverse is None else inverse.grade.value,
        amplification=1.0 if inverse is None else inverse.amplification,
        condition="" if inverse is None or inverse.grade not in _CONDITIONAL else inverse.condition,
        inputs=tuple(map(body.label, equation.inputs)),
        outputs=tuple(map(body.label, equation.outputs)),
        in_types=_types(equation.in_avals),
        types=_types(equation.out_avals),
        bytes_in=body.info.bytes(equation.reads),
        bytes_out=body.info.bytes(equation.outputs),
        flops=costs.cost(equation),
        repeats=body.repeats,
        module=module_name(body, equation),
        source=equation.line,
    )


def _types(avals: Iterable[Any]) -> tuple[str, ...]:
    return tuple(aval.str_short(short_dtypes=True) for aval in avals)
