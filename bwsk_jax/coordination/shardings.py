"""How a value is split, between the attributes of Shardy and plain tuples."""

from __future__ import annotations

from typing import Any

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import sdy

__all__ = ["Sharding", "dimensions", "reshard", "set_sharding", "sharding_attribute", "sharding_of"]

Sharding = tuple[tuple[str, ...], ...]
"""For each dimension of a value, the mesh axes over which it is split."""


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
    names = lambda dimension: tuple(sdy.AxisRefAttr(axis).name for axis in dimension.axes)
    return tuple(map(names, dimensions(attribute)))


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
        sdy.DimensionShardingAttr.get([sdy.AxisRefAttr.get(axis) for axis in axes], is_closed=True)
        for axes in sharding
    ]
    return sdy.TensorShardingAttr.get(mesh, each)
