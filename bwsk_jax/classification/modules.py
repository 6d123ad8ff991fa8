"""Modules: which equations each has, and whether it preserves.

A module is known by the name stack that Linen leaves, or by the classes whose `__call__` an equation was
written in, for libraries that leave none.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Hashable, Iterator, Sequence, Set

from bwsk_jax.classification.bodies import Body
from bwsk_jax.classification.equations import ClassifiedEquation, leaving
from bwsk_jax.classification.functions import Occurrence
from bwsk_jax.classification.report import Module
from bwsk_jax.classification.values import Role, ValueInfo
from bwsk_jax.engine.program.jaxprs import Equation
from bwsk_jax.engine.program.types import is_differentiable, is_key
from bwsk_jax.engine.rules import costs

__all__ = ["mark_leaves", "module_name", "modules", "preserves_strictly"]

SMALL = 0.5
"""Side information is small if it has at most this fraction of the bytes that it helps to recover."""


def module_name(body: Body, equation: Equation) -> str:
    """The name of the module that an equation stands in, with those around it: "Encoder/layer/norm".

    `einsum` puts its specification on the name stack and `vmap` its own name, as `vmap()`; these are no
    modules. Without a name stack the classes that call each other are named instead.
    """
    scopes = [scope for scope in equation.module.split("/") if not _NO_MODULE.fullmatch(scope)]
    if not scopes and (callers := equation.callers):
        return callers
    return "/".join(filter(None, (body.module, *scopes)))


_NO_MODULE = re.compile(r"|.*->.*|(\w+\()+\)+")


def modules(
    body: Body,
    equations: Sequence[ClassifiedEquation],
    preserves: Callable[[Sequence[ClassifiedEquation], ValueInfo], bool],
) -> Iterator[Module]:
    """The modules of a body, in the order of their first equations; `preserves` says which are S."""
    named: dict[str, list[ClassifiedEquation]] = {}
    for classified in equations:
        if classified.verdict.kind != "B" and (name := module_name(body, classified.equation)):
            named.setdefault(name, []).append(classified)
    groups = [(name, group) for name, all_of in named.items() for group in split_calls(all_of, body.info)]
    for name, group in sorted(groups, key=lambda found: found[1][0].line):
        inside = [classified.equation for classified in group]
        yield Module(
            name=name,
            kind="S" if preserves(group, body.info) else "K",
            lines=tuple(classified.line for classified in group),
            bytes=sum(body.info.bytes(equation.reads) for equation in inside),
            flops=sum(map(costs.cost, inside)),
            repeats=body.repeats,
            leaf=not _only_draws_keys(inside),
        )


def _only_draws_keys(equations: Sequence[Equation]) -> bool:
    """Whether a module is no layer of its own but what a layer draws its random keys from."""
    avals = [aval for equation in equations for aval in (*equation.in_avals, *equation.out_avals)]
    return any(map(is_key, avals)) and not any(map(is_differentiable, avals))


def mark_leaves(found: Sequence[Module]) -> Iterator[Module]:
    """The same modules; those that have other modules inside are no leaves."""
    for module in found:
        inside = any(other.leaf and other.name.startswith(f"{module.name}/") for other in found)
        yield dataclasses.replace(module, leaf=module.leaf and not inside)


# --- modules of one name -----------------------------------------------------------------------------------


def split_calls(equations: Sequence[ClassifiedEquation], info: ValueInfo) -> list[list[ClassifiedEquation]]:
    """The equations of one name, by module: one line may call the layers of a list in turn.

    A call begins where the line that wrote the first equation comes again. A call that reads parameters
    which none before it read is another module's. Any other is one more call of a module that came before.
    """
    found: list[tuple[set[int], list[ClassifiedEquation]]] = []
    for call in _calls(equations):
        parameters = _parameters(call, info)
        home = next((module for module in found if parameters <= module[0]), None)
        if home is None:
            found.append((parameters, call))
        else:
            home[1].extend(call)
    return [module for _, module in found]


def _calls(equations: Sequence[ClassifiedEquation]) -> list[list[ClassifiedEquation]]:
    calls: list[list[ClassifiedEquation]] = []
    beginning = _place(equations[0])
    for classified in equations:
        if _place(classified) == beginning:
            calls.append([])
        calls[-1].append(classified)
    return calls


def _place(classified: ClassifiedEquation) -> Hashable:
    """The primitive and the lines of code that wrote an equation, those of its callers included."""
    equation = classified.equation
    return equation.primitive, *(source.traceback for source in (*equation.calls, equation.source))


def _parameters(call: Sequence[ClassifiedEquation], info: ValueInfo) -> set[int]:
    read = {v for classified in call for v in classified.equation.reads if info.role(v) < Role.DATA}
    return read.difference(v for classified in call for v in classified.equation.outputs)


# --- what a module is --------------------------------------------------------------------------------------


def preserves_strictly(module: Sequence[ClassifiedEquation], info: ValueInfo) -> bool:
    """Whether an input of the highest role can be recovered from the module's outputs.

    The way back may read what is at hand, which is the module's other inputs and whatever it computes from
    parameters alone. What else it reads has to be `SMALL` beside the input.
    """
    made = {v for classified in module for v in classified.equation.outputs}
    inputs = {v: None for classified in module for v in classified.equation.reads if v not in made}
    highest = max(map(info.role, inputs), default=Role.KNOWN)
    if highest is Role.KNOWN:
        return True
    followed = [v for v in inputs if info.role(v) is highest]
    at_hand = {v for v in made if info.role(v) < Role.DATA}.union(inputs)
    return any(_is_recoverable(v, module, info, at_hand) for v in followed)


def _is_recoverable(
    target: int, module: Sequence[ClassifiedEquation], info: ValueInfo, at_hand: Set[int]
) -> bool:
    """Whether `target` comes back from what leaves the module, what is at hand, and little else.

    Where several equations compute a function that preserves as a whole, its operand comes back from its
    result, whatever these equations erase.
    """
    sources_of = _smallest_sources(module, info, at_hand - {target})
    known = set(leaving(module, info))
    side: set[int] = set()
    whole = _whole_functions(module, info)
    passed: set[Equation] = set()
    for classified in reversed(module):
        occurrence = whole.get(classified.equation)
        if occurrence is not None and occurrence.result in known:
            target_here, given = occurrence.operand, [occurrence.constant]
            passed.update(occurrence.equations)
        elif classified.equation not in passed and known.issuperset(classified.equation.outputs):
            target_here, given = classified.target, classified.given
        else:
            continue
        if target_here is not None and target_here not in known:
            known.add(target_here)
            side.update(*(sources_of(v) for v in given if isinstance(v, int) and v not in known))
    return target in known and info.origin_bytes_of(side) <= SMALL * info.origin_bytes[target]


def _whole_functions(module: Sequence[ClassifiedEquation], info: ValueInfo) -> dict[Equation, Occurrence]:
    """The functions that are computed inside a module and preserve as a whole, by their last equation."""
    inside = {classified.equation for classified in module}
    return {each.equations[-1]: each for each in info.functions if inside.issuperset(each.equations)}


def _smallest_sources(
    module: Sequence[ClassifiedEquation], info: ValueInfo, at_hand: Set[int]
) -> Callable[[int], set[int]]:
    """A function that says what has to be kept for a value to be had: nothing if it is at hand.

    That is the value itself, or what it can be computed from if that is smaller.
    """
    sources: dict[int, set[int]] = {v: set() for v in at_hand}
    for classified in module:
        from_inputs = set().union(*(sources.get(v, {v}) for v in classified.equation.reads))
        for v in classified.equation.outputs:
            sources.setdefault(v, min({v}, from_inputs, key=info.origin_bytes_of))
    return lambda v: sources.get(v, {v})
