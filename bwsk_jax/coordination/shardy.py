"""Let Shardy partition a lowered module in this process, and read where its devices exchange messages.

Shardy is the partitioner that XLA runs. It decides for each value how it is split (propagation), and then
writes the collectives between layouts that do not fit (explicit reshards). Both are passes over MLIR that
jaxlib contains; they take neither devices nor a compiler. See https://openxla.org/shardy.

Shardy leaves to XLA what a device needs of the edge of its neighbour's part (a halo), as in convolutions,
slices and pads along a split dimension. `windows` and `halos` say what XLA sends there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from jaxlib.mlir import ir, passmanager

from bwsk_jax.coordination.deferral import COMBINED, FOLLOWED
from bwsk_jax.coordination.numbering import NumberedJaxpr, number_in
from bwsk_jax.coordination.operands import fit_operands
from bwsk_jax.coordination.shardings import (
    devices_along,
    dimensions,
    sharding_attribute,
    sharding_of,
    whole_axes,
)
from bwsk_jax.coordination.steps import Block, Exchange, Step
from bwsk_jax.coordination.windows import RESHAPING, SHIFTING, edges_sent
from bwsk_jax.coordination.xla_import import as_xla_imports, main_of, operations

__all__ = ["partition", "propagate"]

_PROPAGATION = "sdy-propagation-pipeline"
_COLLECTIVES = (
    "func.func(sdy-insert-explicit-reshards{enable-full-version=true}),canonicalize,"
    "func.func(sdy-reshard-to-collectives),canonicalize"
)
_KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_BY_SHARDY = {f"sdy.{kind.replace('-', '_')}": kind for kind in _KINDS}
_BY_THE_PROGRAM = {f"stablehlo.{kind.replace('-', '_')}": kind for kind in _KINDS}
_AXES = {
    "sdy.all_reduce": "reduction_axes",
    "sdy.all_gather": "gathering_axes",
    "sdy.reduce_scatter": "reduce_scatter_axes",
    "sdy.all_to_all": "params",
}
"""The attribute in which an operation of Shardy names the mesh axes over which devices meet."""
_SUMS = ("all-reduce", "reduce-scatter")


def partition(module: ir.Module, numbered: NumberedJaxpr, sizes: dict[str, int]) -> Block:
    """The program that each device runs, as Shardy partitions `module` over mesh axes of these sizes."""
    with module.context, ir.Location.unknown():
        partitioned = _propagated(module)
        fit_operands(partitioned)
        _run(partitioned, _COLLECTIVES)
        return _Reader(main_of(partitioned), numbered, sizes).function()


def propagate(module: ir.Module) -> Any:
    """The module with the sharding that Shardy gives to each value, and no collectives yet."""
    with module.context, ir.Location.unknown():
        return _propagated(module)


def _propagated(module: ir.Module) -> Any:
    copy = as_xla_imports(module)
    _run(copy, _PROPAGATION)
    return copy


def _run(module: Any, passes: str) -> None:
    passmanager.PassManager.parse(f"builtin.module({passes})").run(module)


# --- sizes -------------------------------------------------------------------------------------------------


def _axis_sizes(text: str, sizes: dict[str, int]) -> dict[str, int]:
    """The mesh axes in the text of an attribute, with their sizes, or those of the parts that it names."""
    found: dict[str, int] = {}
    for name, part in re.findall(r'"([^"]+)"(?::\(\d+\)(\d+))?', text):
        found[name] = found.get(name, 1) * int(part) if part else sizes[name]
    return {name: found[name] for name in sizes if name in found}


def _bytes(type_: ir.Type, shape: Sequence[int], splits: Iterable[int]) -> int:
    """Of a value of this element type on one device, if its dimensions are split into so many parts."""
    local = (-(-size // parts) for size, parts in zip(shape, splits, strict=True))
    return math.prod(local) * _bits(ir.RankedTensorType(type_).element_type) // 8


def _bits(element: ir.Type) -> int:
    if isinstance(element, ir.ComplexType):
        return 2 * _bits(element.element_type)
    width = (
        ir.IntegerType(element).width if isinstance(element, ir.IntegerType) else ir.FloatType(element).width
    )
    return 8 if width == 1 else width


# --- reading -----------------------------------------------------------------------------------------------


class _Reader:
    """Turns operations into steps, and numbers the values between them."""

    def __init__(self, main: Any, numbered: NumberedJaxpr, sizes: dict[str, int]):
        self.main, self.numbered, self.sizes = main, numbered, sizes
        self.values: dict[Any, int] = {}
        self.computed: dict[int, int] = {}
        """How often each value is computed."""

    def function(self) -> Block:
        return self.block(self.main.regions[0].blocks[0], times=1)

    def number(self, value: Any, times: int) -> int:
        number = self.values.setdefault(value, len(self.values))
        self.computed.setdefault(number, times)
        return number

    def block(self, block: ir.Block, times: int) -> Block:
        inputs = tuple(self.number(argument, times) for argument in block.arguments)
        *body, end = operations(block)
        steps = [step for each in body for step in self.steps(each, times)]
        return Block(inputs, tuple(steps), tuple(self.number(value, times) for value in end.operands))

    def steps(self, operation: Any, times: int) -> Iterable[Step]:
        if operation.name == "sdy.manual_computation":
            return self.manual_computation(operation, times)
        return [self.step(operation, times)]

    def manual_computation(self, operation: Any, times: int) -> Iterable[Step]:
        """What a `shard_map` runs is part of the program around it."""
        block = operation.regions[0].blocks[0]
        for argument, operand in zip(block.arguments, operation.operands, strict=True):
            self.values[argument] = self.number(operand, times)
        body = self.block(block, times)
        for result, value in zip(operation.results, body.outputs, strict=True):
            self.values[result] = value
        return body.steps

    def step(self, operation: Any, times: int) -> Step:
        equation = number_in(str(operation.location))
        reads = tuple(self.number(value, times) for value in operation.operands)
        exchanges, bodies, trips = (), (), 1
        if operation.name in _BY_SHARDY and not _is_constant(operation.operands[0]):
            # What a loop captures is laid out anew once, before the loop.
            times = min(times, self.computed[reads[0]])
            exchanges = (self.by_shardy(operation, equation, times),)
        elif operation.name in _BY_THE_PROGRAM and equation is not None:
            exchanges = tuple(self.by_the_program(operation, equation, times))
        elif operation.name in SHIFTING:
            exchanges = tuple(self.halos(operation, equation, times))
        elif operation.name == "stablehlo.while":
            trips = self.numbered.trips(equation)
            bodies = tuple(self.block(region.blocks[0], times * trips) for region in operation.regions)
        elif operation.name in ("stablehlo.case", "stablehlo.if"):
            branches = [self.block(region.blocks[0], times) for region in operation.regions]
            bodies = (max(branches, key=_moved),)
        makes = tuple(self.number(value, times) for value in operation.results)
        name = _followed(operation)
        sizes = tuple(map(self.size, operation.results)) if name or exchanges else ()
        split = frozenset(axis for value in operation.operands if name for axis in self.split(value))
        return Step(equation, reads, makes, exchanges, bodies, trips, name, sizes, split)

    def size(self, value: Any) -> int:
        """The bytes of a value on one device."""
        sharding = sharding_of(value, self.main) or ()
        parts = [devices_along(axes, self.sizes) for axes in sharding]
        shape = ir.RankedTensorType(value.type).shape
        return _bytes(value.type, shape, parts or [1] * len(shape))

    def split(self, value: Any) -> set[str]:
        """The axes over which a value is split, which are all of them if that is not known."""
        sharding = sharding_of(value, self.main)
        return set(self.sizes) if sharding is None else whole_axes(axis for axes in sharding for axis in axes)

    def by_shardy(self, operation: Any, equation: int | None, times: int) -> Exchange:
        kind = _BY_SHARDY[operation.name]
        out = operation.attributes["out_sharding"]
        if operation.name in _AXES:
            axes = _axis_sizes(str(operation.attributes[_AXES[operation.name]]), self.sizes)
        else:
            axes = _axis_sizes(_moved_axes(operation.operands[0], out), self.sizes)
        splits = [math.prod(_axis_sizes(str(each), self.sizes).values()) for each in dimensions(out)]
        readers, summed = _readers(operation), kind in _SUMS
        shape, own = self.padded(operation.operands[0]), ir.RankedTensorType(operation.results[0].type).shape
        if kind == "all-gather" and math.prod(shape) >= 2 * math.prod(own):
            # Rather than gather padding, each device adds its part to zeros.
            kind, shape = "all-reduce", own
        return Exchange(
            kind=kind,
            axes=tuple(axes),
            devices=math.prod(axes.values()),
            bytes=_bytes(operation.results[0].type, shape, splits),
            times=times,
            cause="sum" if summed else "layout",
            equation=_maker(operation) if summed else next(iter(readers), equation),
            maker=_maker(operation if summed else operation.operands[0]),
            readers=readers,
        )

    def padded(self, value: Any) -> list[int]:
        """The shape of a value with each dimension padded to parts of one size."""
        shape = list(ir.RankedTensorType(value.type).shape)
        sharding = sharding_of(value, self.main) or ((),) * len(shape)
        parts = (devices_along(axes, self.sizes) for axes in sharding)
        return [-(-size // count) * count for size, count in zip(shape, parts, strict=True)]

    def halos(self, operation: Any, equation: int | None, times: int) -> Iterable[Exchange]:
        """What devices send of their parts where each part of the result reads another stretch."""
        operand, result = (
            sharding_of(value, self.main) for value in (operation.operands[0], operation.results[0])
        )
        if operand is None or result is None or _is_constant(operation.operands[0]):
            return
        readers = () if equation is None else (equation,)
        bits = _bits(ir.RankedTensorType(operation.operands[0].type).element_type)
        for kind, axes, shape in edges_sent(operation, operand, result, self.sizes):
            devices = devices_along(axes, self.sizes)
            axes = tuple(axis for axis in self.sizes if axis in whole_axes(axes))
            size = math.prod(shape) * bits // 8
            cause = "layout" if operation.name in RESHAPING else "halo"
            maker = _maker(operation.operands[0])
            yield Exchange(kind, axes, devices, size, times, cause, equation, maker, readers)

    def by_the_program(self, operation: Any, equation: int, times: int) -> Iterable[Exchange]:
        axes = tuple(name for name in self.sizes if name in self.numbered.axes(equation))
        devices = math.prod(self.sizes[name] for name in axes)
        kind, readers = _BY_THE_PROGRAM[operation.name], _readers(operation)
        for result in operation.results:
            shape = ir.RankedTensorType(result.type).shape
            size = _bytes(result.type, shape, [1] * len(shape))
            yield Exchange(kind, axes, devices, size, times, "program", equation, equation, readers)


def _followed(operation: Any) -> str:
    """What an operation is called where parts of sums are followed; "" if they are not followed there."""
    name = operation.name.removeprefix("stablehlo.")
    if name in ("reduce", "scatter"):
        inner = [each.name for each in operations(operation.regions[0].blocks[0])]
        adds = inner == ["stablehlo.add", "stablehlo.return"]
        return ("sum" if name == "reduce" else "") if adds else COMBINED
    if name == "convert" and not all(map(_is_float, (*operation.operands, *operation.results))):
        return ""  # what rounds parts to integers does not round their sum
    return name if name in FOLLOWED else ""


def _is_float(value: Any) -> bool:
    return str(ir.RankedTensorType(value.type).element_type).lstrip("b").startswith("f")


def _moved(block: Block) -> int:
    return sum(exchange.bytes * exchange.times for exchange in block.exchanges())


def _moved_axes(value: Any, out: ir.Attribute) -> str:
    """The axes of the dimensions whose sharding a permutation of devices changes, as text."""
    before = sharding_attribute(value)
    if before is None:
        return str(out)
    changed = zip(map(str, dimensions(before)), map(str, dimensions(out)), strict=True)
    return " ".join(f"{old} {new}" for old, new in changed if old != new)


def _maker(made: Any) -> int | None:
    """The equation that an operation, or what makes a value, stems from, or else what makes its operand."""
    if isinstance(made, ir.Value):
        if not isinstance(made, ir.OpResult):
            return None
        made = made.owner.operation
    number = number_in(str(made.location))
    if number is None and len(made.operands):
        return _maker(made.operands[0])
    return number


def _readers(operation: Any) -> tuple[int, ...]:
    """The equations that read the results, also in another shape, for Shardy gathers before a reshape."""
    found: set[int] = set()
    for user in (use.owner.operation for result in operation.results for use in result.uses):
        number = number_in(str(user.location))
        if number is not None:
            found.add(number)
        if user.name == "stablehlo.reshape":
            found.update(_readers(user))
    return tuple(sorted(found))


def _is_constant(value: Any) -> bool:
    """Whether a value is computed from constants by operations that only shape it."""
    if not isinstance(value, ir.OpResult):
        return False
    operation = value.owner.operation
    shapes = operation.name in ("stablehlo.broadcast_in_dim", "stablehlo.reshape", "stablehlo.transpose")
    return operation.name.endswith(".constant") or (shapes and _is_constant(operation.operands[0]))
