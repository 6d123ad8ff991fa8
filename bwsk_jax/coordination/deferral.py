"""Which sums could meet later, and so less often or for fewer bytes.

A device that has a part of a sum may go on with its part as long as it is only added to other such parts, or
changed by maps that are linear and the same on each device: the sum of what they make is what they make of
the sum. The devices then meet where something else reads the value, which may be once for several sums:

- Several sums feed one addition. The gradient of a parameter that is used twice is one.
- The result is made smaller, by another sum, before anything reads it.
- A loop only adds a sum up, as the accumulation of gradients does, and nothing reads it before the end.

What changes is the order of additions, and so the rounding.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator

from bwsk_jax.coordination.meetings import wire_bytes
from bwsk_jax.coordination.steps import Block, Exchange, Step

__all__ = ["Deferral", "deferrals"]

_ADDITIVE = {"add", "subtract", "negate", "concatenate"}
"""Operations of which all operands have to be parts of sums."""
_SHAPING = {"reshape", "transpose", "broadcast_in_dim", "slice", "reverse", "convert", "sum"}
"""Linear operations whose first operand is the part of a sum."""
_BILINEAR = {"multiply", "dot_general", "dot"}
"""Operations that are linear in either operand, if the other one is the same on each device."""
FOLLOWED = _ADDITIVE | _SHAPING | _BILINEAR | {"divide"}
"""Operations through which parts of sums are followed; "sum" is a reduction that adds."""
COMBINED = "combined otherwise"
"""The name of reductions that do not add, such as a maximum. Nothing linear commutes with them."""


@dataclasses.dataclass(frozen=True)
class Deferral:
    """Sums that could meet later.

    Attributes:
      meetings: the places of the sums in `CalmReport.meetings`.
      equations: the numbers of the equations whose results could be summed over devices in their place.
      times, times_deferred: how often a run meets for them, as predicted and if deferred.
      wire, wire_deferred: the bytes that one device sends for them in a run.
    """

    meetings: tuple[int, ...]
    equations: tuple[int | None, ...]
    times: int
    times_deferred: int
    wire: int
    wire_deferred: int


def deferrals(block: Block) -> list[Deferral]:
    """The sums of a program and of its loops that would meet less often, or for fewer bytes, if deferred."""
    places = {exchange: place for place, exchange in enumerate(e for e in block.exchanges() if e.times)}
    return list(_deferrals(block, places, times=1, trips=1))


def _deferrals(block: Block, places: dict[Exchange, int], times: int, trips: int) -> Iterator[Deferral]:
    """Those of a block that runs so many times, of which each `trips` in a row are those of one loop."""
    yield from _Debts(block, times, trips).deferrals(places)
    for step in block.steps:
        for body in step.bodies:
            yield from _deferrals(body, places, times * step.trips, step.trips)


class _Debts:
    """Follows the parts of sums through a block, from each exchange on to where it has to take place."""

    def __init__(self, block: Block, times: int, trips: int):
        self.block, self.times, self.trips = block, times, trips
        self.maker = {value: step for step in block.steps for value in step.makes}
        self.readers: dict[int, list[Step]] = {}
        for step in block.steps:
            for value in dict.fromkeys(step.reads):
                self.readers.setdefault(value, []).append(step)
        self.owed: dict[int, dict[Exchange, None]] = {}
        """For each value that could be a part of a sum, the exchanges that would not have taken place yet."""
        for step in block.steps:
            self.follow(step)

    def follow(self, step: Step) -> None:
        if step.exchanges:
            (*others, exchange) = step.exchanges
            combined = any(self.maker[v].name == COMBINED for v in step.reads if v in self.maker)
            if not (others or combined) and exchange.cause == "sum" and exchange.times == self.times:
                self.owed[step.makes[0]] = {exchange: None}
            return
        owing = [self.owed.get(value) for value in step.reads]
        debts = {exchange: None for owed in owing for exchange in owed or ()}
        alike = {(exchange.kind, exchange.axes) for exchange in debts}
        if len(alike) == 1 and (_carries(step, list(map(bool, owing)), debts) or self.adds_up(step)):
            self.owed[step.makes[0]] = debts

    def adds_up(self, step: Step) -> bool:
        """Whether a step only adds to what its loop carries, which nothing else reads."""
        if step.name != "add" or self.trips == 1 or step.makes[0] in self.readers:
            return False
        carried = zip(self.block.inputs, self.block.outputs, strict=False)
        return any(
            before in step.reads and after == step.makes[0] and self.readers[before] == [step]
            for before, after in carried
        )

    def deferrals(self, places: dict[Exchange, int]) -> Iterator[Deferral]:
        due = [value for value in self.owed if self.is_due(value)]
        for exchanges, values in _connected({value: set(self.owed[value]) for value in due}):
            runs = [self.times // (self.trips if self.adds_up(self.maker[v]) else 1) for v in values]
            sent = functools.partial(wire_bytes, *next((each.kind, each.devices) for each in exchanges))
            wires = [n * sent(self.maker[v].sizes[0]) for n, v in zip(runs, values, strict=True)]
            found = Deferral(
                meetings=tuple(sorted(places[exchange] for exchange in exchanges)),
                equations=tuple(self.maker[value].equation for value in values),
                times=sum(exchange.times for exchange in exchanges),
                times_deferred=sum(runs),
                wire=round(sum(exchange.times * sent(exchange.bytes) for exchange in exchanges)),
                wire_deferred=round(sum(wires)),
            )
            less = found.times_deferred < found.times or found.wire_deferred < found.wire
            if less and found.wire_deferred <= found.wire and found.times_deferred <= found.times:
                yield found

    def is_due(self, value: int) -> bool:
        """Whether devices have to meet for a value, because something reads it that is not linear in it."""
        readers = self.readers.get(value, ())
        return value in self.block.outputs or not all(
            reader.makes and reader.makes[0] in self.owed and not reader.exchanges for reader in readers
        )


def _carries(step: Step, owing: list[bool], debts: Iterable[Exchange]) -> bool:
    """Whether an operation makes parts of a sum from parts of sums."""
    if step.name in _ADDITIVE:
        return all(owing)
    if step.name in _SHAPING:
        return owing[0] and not any(owing[1:])
    if any(axis in step.split for exchange in debts for axis in exchange.axes):
        return False
    return (step.name in _BILINEAR and owing.count(True) == 1) or (
        step.name == "divide" and owing == [True, False]
    )


def _connected(owed: dict[int, set[Exchange]]) -> list[tuple[set[Exchange], list[int]]]:
    """Groups of exchanges and values, so that no exchange is owed in two groups."""
    groups: list[tuple[set[Exchange], list[int]]] = []
    for value, exchanges in owed.items():
        together, apart = (set(exchanges), [value]), []
        for group in groups:
            if group[0] & exchanges:
                together = (together[0] | group[0], group[1] + together[1])
            else:
                apart.append(group)
        groups = [*apart, together]
    return groups
