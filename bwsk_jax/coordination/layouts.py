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
"""The shape of a value and how it is split, without axes of size 1; None if that is not known.

XLA adds and removes such axes where it reads a program, and nothing can be split along them.
"""


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
    """By shape: all values of a shape are split in one way, or there are as many as there are operands."""
    squeezed = [tuple(size for size in shape if size != 1) for shape in shapes]
    found: list[Sharding | None] = []
    for place, (shape, wanted) in enumerate(zip(shapes, squeezed, strict=True)):
        alike = [sharding for other, sharding in values if other == wanted]
        if not wanted:
            sharding = ()
        elif alike and all(each == alike[0] for each in alike):
            sharding = alike[0]
        elif len(alike) == squeezed.count(wanted):
            sharding = alike[squeezed[:place].count(wanted)]
        else:
            sharding = None
        found.append(None if sharding is None else _with_axes_of_size_1(shape, sharding))
    return found


def _with_axes_of_size_1(shape: tuple[int, ...], sharding: Sharding) -> Sharding:
    split = iter(sharding)
    return tuple(() if size == 1 else next(split) for size in shape)


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
    shape = ir.RankedTensorType(value.type).shape
    sharding = sharding_of(value, main)
    kept = [place for place, size in enumerate(shape) if size != 1]
    short = None if sharding is None else tuple(sharding[place] for place in kept)
    return tuple(shape[place] for place in kept), short
