"""How Shardy splits the operands and results of each equation."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from jaxlib.mlir import ir

from bwsk_jax.coordination.numbering import number_in
from bwsk_jax.coordination.shardings import Sharding, sharding_of
from bwsk_jax.coordination.shardy import propagate
from bwsk_jax.coordination.xla_import import main_of, operations

__all__ = ["Layouts", "layouts"]

_Value = tuple[tuple[int, ...], Sharding | None]
"""The shape of a value and how it is split; None if that is not known."""


@dataclasses.dataclass
class Layouts:
    """The values that the operations of one equation read from others, and those that others read."""

    operands: list[_Value]
    results: list[_Value]

    def of_operands(self, shapes: Sequence[tuple[int, ...]]) -> list[Sharding | None]:
        """For operands of these shapes, how each is split; None where the program does not tell."""
        return _matched(shapes, self.operands)

    def of_results(self, shapes: Sequence[tuple[int, ...]]) -> list[Sharding | None]:
        """The same for results."""
        return _matched(shapes, self.results)


def _matched(shapes: Sequence[tuple[int, ...]], values: Sequence[_Value]) -> list[Sharding | None]:
    """By shape: all values of a shape are split in one way, or there are as many as there are operands.

    XLA adds and removes axes of size 1 where it reads a program, so that shapes without them count where no
    value has the very shape.
    """
    found: list[Sharding | None] = []
    for place, shape in enumerate(shapes):
        exact = {sharding for other, sharding in values if other == shape}
        found.append(exact.pop() if len(exact) == 1 else _matched_but_for_1(shapes, place, values))
    return found


def _matched_but_for_1(
    shapes: Sequence[tuple[int, ...]], place: int, values: Sequence[_Value]
) -> Sharding | None:
    squeezed = list(map(_squeezed, shapes))
    wanted = squeezed[place]
    alike = [
        None if sharding is None else tuple(a for a, size in zip(sharding, other, strict=True) if size != 1)
        for other, sharding in values
        if _squeezed(other) == wanted
    ]
    if not wanted:
        sharding = ()
    elif alike and all(each == alike[0] for each in alike):
        sharding = alike[0]
    elif len(alike) == squeezed.count(wanted):
        sharding = alike[squeezed[:place].count(wanted)]
    else:
        sharding = None
    if sharding is None:
        return None
    split = iter(sharding)
    return tuple(() if size == 1 else next(split) for size in shapes[place])


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def layouts(module: ir.Module) -> dict[int, Layouts]:
    """The layouts of each equation of a lowered module, by the number of the equation."""
    propagated = propagate(module)
    with module.context:
        main = main_of(propagated)
        inside: dict[int, list[Any]] = {}
        for operation in _all(main):
            number = number_in(str(operation.location))
            if number is not None:
                inside.setdefault(number, []).append(operation)
        return {number: _layouts_of(group, number, main) for number, group in inside.items()}


def _all(operation: Any) -> Iterator[Any]:
    for region in operation.regions:
        for block in region.blocks:
            for each in operations(block):
                yield each
                if each.name not in _WITHOUT_LAYOUTS:
                    yield from _all(each)


_WITHOUT_LAYOUTS = ("stablehlo.reduce", "stablehlo.scatter", "stablehlo.reduce_window", "stablehlo.sort")
"""Operations whose regions compute with single elements."""


def _layouts_of(group: Sequence[Any], number: int, main: Any) -> Layouts:
    own = lambda operation: number_in(str(operation.location)) == number
    found = Layouts([], [])
    for operation in group:
        for value in operation.operands:
            if not (isinstance(value, ir.OpResult) and own(value.owner.operation)):
                found.operands.append(_value(value, main))
        for result in operation.results:
            if not all(own(use.owner.operation) for use in result.uses):
                found.results.append(_value(result, main))
    return found


def _value(value: Any, main: Any) -> _Value:
    if not isinstance(value.type, ir.RankedTensorType):
        return (), None
    sharding = sharding_of(value, main)
    parted = any(":" in axis for axes in sharding or () for axis in axes)  # which the test does not know
    return tuple(ir.RankedTensorType(value.type).shape), None if parted else sharding
