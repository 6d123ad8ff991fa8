"""Lay out operands as XLA does where they do not fit, before Shardy does it in another way.

After propagation the operands and the result of an operation may be split in ways that exclude each other:
one mesh axis splits the rows of a matrix and the columns of the other. Shardy's explicit reshards weigh the
bytes and may split the work anew. XLA's partitioner, which compiles the program, keeps to the result:

- An elementwise operation reads its operands as its result is split.
- A product whose operands are both split along a dimension that is summed is summed in parts, whatever splits
  its result. Otherwise the operands are laid out as the result is, and whole along an axis that splits a
  dimension of the result which they do not have.
- A convolution in groups, with filters that are split by what they make, is computed split in that way.
- A slice, pad or reversal reads its operand as its result is split, and sends what lies with others. A slice
  from a place that is not known reads its operand whole.

These layouts are written into the program, so that nothing is left for Shardy to decide.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo

from bwsk_jax.coordination.shardings import Sharding, reshard, set_sharding, sharding_of, whole_axes
from bwsk_jax.coordination.xla_import import all_operations, main_of, mesh_of

__all__ = ["fit_operands"]


def fit_operands(module: Any) -> None:
    """Reshard the operands of products and elementwise operations of a propagated module as XLA does."""
    main, mesh = main_of(module), mesh_of(module)
    for operation in list(all_operations(main)) if mesh else ():
        if operation.name in ("stablehlo.dot_general", "stablehlo.dot"):
            _fit_product(operation, main, mesh)
        elif operation.name == "stablehlo.convolution":
            _fit_grouped_convolution(operation, main, mesh)
        elif operation.name in _AS_RESULT:
            _lay_out_operand(operation, main, mesh)
        elif operation.name in _ELEMENTWISE:
            _fit_elementwise(operation, main, mesh)


_ELEMENTWISE = {
    f"stablehlo.{name}"
    for name in (
        "add",
        "and",
        "atan2",
        "compare",
        "divide",
        "maximum",
        "minimum",
        "multiply",
        "or",
        "power",
        "remainder",
        "select",
        "subtract",
        "xor",
    )
}
"""Those of several operands. One of a single operand is split as its operand is, or laid out afterwards."""


_AS_RESULT = {f"stablehlo.{name}" for name in ("dynamic_slice", "pad", "reverse", "slice")}
"""Those whose first operand is laid out as the result is, though they move what it holds."""


def _lay_out_operand(operation: Any, main: Any, mesh: str) -> None:
    result, (operand, *others) = operation.results[0], operation.operands
    wanted = sharding_of(result, main)
    if wanted is None:
        return
    if operation.name == "stablehlo.dynamic_slice":  # from where is not known, so that the whole may be read
        kept = zip(_shape(operand), _shape(result), wanted, strict=True)
        wanted = tuple(axes if size == part else () for size, part, axes in kept)
    _lay_out_operands(operation, [wanted, *(sharding_of(value, main) or () for value in others)], main, mesh)


def _fit_elementwise(operation: Any, main: Any, mesh: str) -> None:
    wanted = sharding_of(operation.results[0], main)
    shape = _shape(operation.results[0])
    if wanted is None or any(_shape(operand) != shape for operand in operation.operands):
        return
    _lay_out_operands(operation, [wanted] * len(operation.operands), main, mesh)


def _fit_product(operation: Any, main: Any, mesh: str) -> None:
    values = (*operation.operands, operation.results[0])
    given = _known(sharding_of(value, main) for value in values)
    if given is None or _in_parts(given):
        return
    roles = _roles(operation)
    wanted: list[dict[str, list[str]]] = [{} for _ in roles]
    for axis in _in_order(given):
        role = _role_of(axis, given, roles, [math.prod(_shape(value)) for value in values])
        for own, each in zip(wanted, roles, strict=True):
            if role in each:
                own.setdefault(role, []).append(axis)
    of_operands = [
        tuple(tuple(own.get(role, ())) for role in each) for own, each in zip(wanted, roles, strict=True)
    ]
    of_result = of_operands.pop()
    _lay_out_operands(operation, of_operands, main, mesh)
    _lay_out_result(operation, of_result, given[-1], mesh)


def _fit_grouped_convolution(operation: Any, main: Any, mesh: str) -> None:
    """Compute group by group where the filters are split by what they make, which each group does alone."""
    if ir.IntegerAttr(operation.attributes["feature_group_count"]).value == 1:
        return
    (data, filters), (result,) = operation.operands, operation.results
    numbers = stablehlo.ConvDimensionNumbers(operation.attributes["dimension_numbers"])
    given = _known(sharding_of(value, main) for value in (data, filters, result))
    if given is None or _in_parts(given) or not (axes := given[1][numbers.kernel_output_feature_dimension]):
        return
    of_features = lambda sharding, feature: tuple(
        axes if dimension == feature else tuple(axis for axis in own if axis not in axes)
        for dimension, own in enumerate(sharding)
    )
    of_data = of_features(given[0], numbers.input_feature_dimension)
    _lay_out_operands(operation, [of_data, given[1]], main, mesh)
    _lay_out_result(operation, of_features(given[2], numbers.output_feature_dimension), given[2], mesh)


def _known(shardings: Iterable[Sharding | None]) -> list[Sharding] | None:
    """All of them, or None if one is not known."""
    found = list(shardings)
    known = [sharding for sharding in found if sharding is not None]
    return known if len(known) == len(found) else None


def _in_parts(given: Sequence[Sharding]) -> bool:
    """Whether one axis is used as a whole and in parts, which is left to Shardy."""
    named = {axis for sharding in given for axes in sharding for axis in axes}
    return len(whole_axes(named)) < len(named)


def _roles(operation: Any) -> list[list[str]]:
    """For each dimension of the operands and of the result of a product, a name of what it ranges over."""
    left, right = map(_shape, operation.operands)
    if operation.name == "stablehlo.dot":  # of matrices and vectors, which names no dimensions
        batches, sums = [[], []], [[len(left) - 1], [0]]
    else:
        numbers = stablehlo.DotDimensionNumbers(operation.attributes["dot_dimension_numbers"])
        batches = [numbers.lhs_batching_dimensions, numbers.rhs_batching_dimensions]
        sums = [numbers.lhs_contracting_dimensions, numbers.rhs_contracting_dimensions]
    operands, free = [], []
    for side, shape, batch, contracting in zip(("left", "right"), (left, right), batches, sums, strict=True):
        names = {dimension: f"batch {k}" for k, dimension in enumerate(batch)}
        names |= {dimension: f"sum {k}" for k, dimension in enumerate(contracting)}
        own = [names.get(dimension, f"{side} {dimension}") for dimension in range(len(shape))]
        operands.append(own)
        free += [name for name in own if name.startswith(side)]
    return [*operands, [*(f"batch {k}" for k in range(len(batches[0]))), *free]]


def _role_of(
    axis: str, given: Sequence[Sharding], roles: Sequence[list[str]], sizes: list[int]
) -> str | None:
    """What an axis splits while the product is computed; None if nothing."""
    left, right, result = (
        next((role for role, axes in zip(each, sharding, strict=True) if axis in axes), None)
        for each, sharding in zip(roles, given, strict=True)
    )
    if left == right and left is not None:
        return left
    if result is not None:
        return result
    # Nothing tells what the result is split by. Sums of parts are sent if they are less than an operand.
    for role, other, size in ((left, right, sizes[0]), (right, left, sizes[1])):
        if role is not None and role.startswith("sum") and other is None and size > sizes[2]:
            return role
    return None


def _in_order(shardings: Sequence[Sharding]) -> list[str]:
    """The axes that split anything, those of the result first, since they are to stay in its order."""
    named = [axis for sharding in reversed(shardings) for axes in sharding for axis in axes]
    return list(dict.fromkeys(named))


# --- writing -----------------------------------------------------------------------------------------------


def _lay_out_operands(operation: Any, wanted: Sequence[Sharding], main: Any, mesh: str) -> None:
    with ir.InsertionPoint(operation):
        for place, (value, sharding) in enumerate(zip(operation.operands, wanted, strict=True)):
            if sharding_of(value, main) not in (None, sharding):
                operation.operands[place] = reshard(value, sharding, mesh)


def _lay_out_result(operation: Any, computed: Sharding, given: Sharding, mesh: str) -> None:
    """Let an operation compute its result split in one way, and its readers find it in another."""
    if computed == given:
        return
    (result,) = operation.results
    readers = [use.owner.operation for use in result.uses]
    set_sharding(operation, computed, mesh)
    with ir.InsertionPoint.after(operation):
        moved = reshard(result, given, mesh)
    for reader in readers:
        for place, value in enumerate(reader.operands):
            if value == result:
                reader.operands[place] = moved


def _shape(value: Any) -> list[int]:
    return list(ir.RankedTensorType(value.type).shape)
