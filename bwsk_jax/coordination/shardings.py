"""How a value is split, between the attributes of Shardy and plain tuples."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import sdy

__all__ = [
    "Sharding",
    "devices_along",
    "dimensions",
    "reshard",
    "set_sharding",
    "sharding_attribute",
    "sharding_of",
    "whole_axes",
]

Sharding = tuple[tuple[str, ...], ...]
"""For each dimension of a value, the mesh axes over which it is split.

A dimension may be split over a part of an axis, which is written as `model:(2)4`: 4 devices, each 2 apart.
"""


def sharding_of(value: Any, main: Any) -> Sharding | None:
    """How a value of the function `main` is split; None for what a body gets, other than that of a loop."""
    rank = ir.RankedTensorType(value.type).rank
    if isinstance(value, ir.OpResult):
        return _in_attributes(value.owner.attributes, value.result_number, rank)
    argument = ir.BlockArgument(value)
    owner = argument.owner.owner.operation
    if owner == main:
        return _in_attributes(ir.DictAttr(main.attributes["arg_attrs"][argument.arg_number]), 0, rank)
    if owner.name == "stablehlo.while":
        return _in_attributes(owner.attributes, argument.arg_number, rank)
    return None


def _in_attributes(attributes: Any, place: int, rank: int) -> Sharding:
    """The sharding that attributes give to the value at a place; whole if they give none.

    The results of Shardy's own operations have theirs under another name.
    """
    attribute = _at(attributes, place)
    if attribute is None:
        return ((),) * rank
    return tuple(tuple(map(_axis_name, dimension.axes)) for dimension in dimensions(attribute))


def _axis_name(axis: ir.Attribute) -> str:
    """The name of a mesh axis; of a part of one, as Shardy writes it, such as `model:(2)4`."""
    return str(axis).removeprefix("#sdy<axis_ref").strip('<>" ').replace('"', "")


def sharding_attribute(value: Any) -> ir.Attribute | None:
    """The attribute that says how the result of an operation is split; None for arguments."""
    return _at(value.owner.attributes, value.result_number) if isinstance(value, ir.OpResult) else None


def _at(attributes: Any, place: int) -> ir.Attribute | None:
    for name in ("sdy.sharding", "out_sharding", "sharding"):
        if name in attributes:
            each = _per_value(attributes[name])
            return each[place if len(each) > 1 else 0]
    return None


def _per_value(attribute: ir.Attribute) -> list[ir.Attribute]:
    try:
        return list(sdy.TensorShardingPerValueAttr(attribute).shardings)
    except ValueError:  # it is the sharding of one value
        return [attribute]


def dimensions(sharding: ir.Attribute) -> list[Any]:
    """What the attribute of one sharding says of each dimension."""
    return [sdy.DimensionShardingAttr(each) for each in sdy.TensorShardingAttr(sharding).dimension_shardings]


def set_sharding(operation: Any, sharding: Sharding, mesh: str) -> None:
    """Let the only result of an operation be split so."""
    each = _attribute(sharding, mesh)
    operation.attributes["sdy.sharding"] = sdy.TensorShardingPerValueAttr.get([each])


def reshard(value: Any, sharding: Sharding, mesh: str) -> Any:
    """The value, split so; the operation that does it is inserted at the current insertion point."""
    return sdy.ReshardOp(value, _attribute(sharding, mesh)).results[0]


def _attribute(sharding: Sharding, mesh: str) -> Any:
    each = [
        sdy.DimensionShardingAttr.get([_axis(name) for name in axes], is_closed=True) for axes in sharding
    ]
    return sdy.TensorShardingAttr.get(mesh, each)


def _axis(name: str) -> Any:
    name, _, part = name.partition(":")
    if not part:
        return sdy.AxisRefAttr.get(name)
    before, _, size = part.removeprefix("(").partition(")")
    return sdy.AxisRefAttr.get(name, sdy.SubAxisInfoAttr.get(int(before), int(size)))


def devices_along(axes: Iterable[str], sizes: Mapping[str, int]) -> int:
    """Over how many devices axes or parts of axes split, on a mesh with axes of these sizes.

    >>> devices_along(("data", "model:(2)4"), {"data": 2, "model": 8})
    8
    """
    return math.prod(int(axis.rpartition(")")[2]) if ":" in axis else sizes[axis] for axis in axes)


def whole_axes(axes: Iterable[str]) -> set[str]:
    """The mesh axes that these are, or are parts of."""
    return {axis.partition(":")[0] for axis in axes}
