"""Which operations read a stretch of their operand for each part of their result, and which stretch.

Slices, pads, convolutions and windowed reductions do: element i of the result reads the operand, dilated and
padded, from i times the stride on, as far as the window reaches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo

from bwsk_jax.coordination.halos import Stretches, widths_sent
from bwsk_jax.coordination.shardings import Sharding, devices_along

__all__ = ["SHIFTING", "edges_sent"]


@dataclasses.dataclass(frozen=True)
class Window:
    """What each element of the result reads along one dimension of the first operand."""

    dimension: int
    """Of the operand."""
    of_result: int
    """The dimension of the result that ranges over the same."""
    low: int
    high: int
    """The padding in front of the operand and behind it; less than 0 where it is cut."""
    reach: int = 1
    """How many elements a window spans."""
    stride: int = 1
    dilation: int = 1
    """How far elements of the operand are apart."""

    @property
    def moves(self) -> bool:
        """Whether any element of the result reads another place than its own."""
        return (self.low, self.high, self.reach, self.stride, self.dilation) != (0, 0, 1, 1, 1)

    def stretches(self, size: int, result: int, parts: int) -> Stretches:
        """What each part of a result of so many elements reads of an operand of this size."""
        part = -(-result // parts)
        first = lambda place: -((self.low - place * part * self.stride) // self.dilation)
        last = lambda place: self.last(place * part + part - 1) + 1
        places = range(parts)
        return Stretches(
            size,
            parts,
            starts=tuple(map(first, places)),
            ends=tuple(map(last, places)),
            low=int(self.low / self.dilation),
            limit=min(size, self.last(result - 1) + 1),
        )

    def last(self, element: int) -> int:
        """The last place that an element of the result reads."""
        return (element * self.stride + self.reach - 1 - self.low) // self.dilation


def edges_sent(
    operation: Any, operand: Sharding, result: Sharding, sizes: dict[str, int]
) -> Iterator[tuple[str, tuple[str, ...], list[int]]]:
    """What devices send of an operand: the kind of each collective, its mesh axes, and the local shape.

    Operand and result are split along the same axes where the operation reads stretches.
    """
    whole = _shape(operation.operands[0])
    if operation.name in RESHAPING:
        yield from _lost_axes(whole, operand, result)
        return
    count = lambda axes: devices_along(axes, sizes)
    local = [-(-size // count(axes)) for size, axes in zip(whole, operand, strict=True)]
    if operation.name == "stablehlo.reverse":
        for dimension in _lists(operation, "dimensions")[0]:
            if operand[dimension]:
                yield "collective-permute", operand[dimension], local
        return
    of_result = _shape(operation.results[0])
    for window in SHIFTING[operation.name](operation):
        axes = operand[window.dimension]
        if not axes or not window.moves or result[window.of_result] != axes:
            continue
        stretches = window.stretches(whole[window.dimension], of_result[window.of_result], count(axes))
        widths = widths_sent(stretches)
        if widths is None:
            yield "all-gather", tuple(axis for axes in operand for axis in axes), whole
            return
        for width in widths:
            yield "collective-permute", axes, _with(local, window.dimension, width)
        local = _with(local, window.dimension, stretches.width)


def _lost_axes(
    whole: list[int], operand: Sharding, result: Sharding
) -> Iterator[tuple[str, tuple[str, ...], list[int]]]:
    """What is sent so that a dimension of size 1 that is split, so that one part has it, can be left out.

    The other parts add zeros.
    """
    kept = {axis for axes in result for axis in axes}
    for size, axes in zip(whole, operand, strict=True):
        if size == 1 and not kept.intersection(axes) and axes:
            yield "all-reduce", axes, whole


def _with(shape: list[int], dimension: int, size: int) -> list[int]:
    return [*shape[:dimension], size, *shape[dimension + 1 :]]


def _slice(operation: Any) -> list[Window]:
    starts, limits, strides = _lists(operation, "start_indices", "limit_indices", "strides")
    return [
        Window(d, d, -starts[d], limits[d] - size, stride=strides[d])
        for d, size in enumerate(_shape(operation.operands[0]))
    ]


def _pad(operation: Any) -> list[Window]:
    low, high, between = _lists(operation, "edge_padding_low", "edge_padding_high", "interior_padding")
    return [Window(d, d, low[d], high[d], dilation=between[d] + 1) for d in range(len(low))]


def _reduce_window(operation: Any) -> list[Window]:
    (sizes,) = _lists(operation, "window_dimensions")
    own = range(len(sizes))
    return _general(operation, own, own, sizes, "base_dilations", "window_dilations")


def _convolution(operation: Any) -> list[Window]:
    numbers = stablehlo.ConvDimensionNumbers(operation.attributes["dimension_numbers"])
    filters = _shape(operation.operands[1])
    sizes = [filters[d] for d in numbers.kernel_spatial_dimensions]
    dimensions = numbers.input_spatial_dimensions, numbers.output_spatial_dimensions
    return _general(operation, *dimensions, sizes, "lhs_dilation", "rhs_dilation")


def _general(
    operation: Any, own: Iterable[int], of_result: Iterable[int], sizes: list[int], base: str, window: str
) -> list[Window]:
    strides, between, apart = (
        _lists(operation, name)[0] if name in operation.attributes else [1] * len(sizes)
        for name in ("window_strides", base, window)
    )
    padding = _padding(operation, len(sizes))
    return [
        Window(d, r, low, high, (sizes[k] - 1) * apart[k] + 1, strides[k], between[k])
        for k, (d, r, (low, high)) in enumerate(zip(own, of_result, padding, strict=True))
    ]


def _padding(operation: Any, count: int) -> list[list[int]]:
    if "padding" not in operation.attributes:
        return [[0, 0]] * count
    return np.array(ir.DenseIntElementsAttr(operation.attributes["padding"])).reshape(count, 2).tolist()


RESHAPING = ("stablehlo.reshape", "stablehlo.broadcast_in_dim")

SHIFTING: dict[str, Callable[[Any], list[Window]]] = {
    "stablehlo.slice": _slice,
    "stablehlo.pad": _pad,
    "stablehlo.reduce_window": _reduce_window,
    "stablehlo.convolution": _convolution,
    "stablehlo.reverse": lambda operation: [],
    **dict.fromkeys(RESHAPING, lambda operation: []),
}
"""The operations, and how the windows of each are written. Reversing a dimension exchanges its parts."""


def _lists(operation: Any, *names: str) -> list[list[int]]:
    return [list(ir.DenseI64ArrayAttr(operation.attributes[name])) for name in names]


def _shape(value: Any) -> list[int]:
    return list(ir.RankedTensorType(value.type).shape)
