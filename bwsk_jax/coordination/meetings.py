"""A meeting: a point of a program at which devices have to exchange messages."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from typing import Protocol

from bwsk_jax.coordination.equations import NumberedEquation
from bwsk_jax.coordination.steps import Exchange

__all__ = ["Meeting", "Sent", "bytes_per_axis", "meeting_of", "wire_bytes"]


@dataclasses.dataclass(frozen=True)
class Meeting:
    """An exchange of messages between devices, and the equation that causes it.

    Attributes:
      kind: "all-reduce", "all-gather", "reduce-scatter", "all-to-all" or "collective-permute".
      axes: the mesh axes along which devices meet.
      devices: how many devices meet in each group.
      bytes: the size of the result on one device, each time.
      times: how often a run of the program comes to it; loops count.
      why: "sum over a split dimension" where each device has a part of a sum, or "maximum over a split
        dimension" and the like; "relayout" where an equation reads a value that lies otherwise than it needs;
        "halo" where a window, shift, slice or pad along a split dimension reads of the neighbours' parts;
        "written in the program" for collectives inside a `shard_map`.
      equation: the number of the equation whose result is summed, or of the first that reads what is laid out
        anew. If a result of the whole function is, that of the equation that makes it, or None.
      maker: the number of the equation that makes what is sent; None for an argument.
      primitive: the name of its primitive.
      letter: S, ~S, K or B, as `bwsk_jax.classify` says of this equation by its strict count; "" for none.
      module: the module that it stands in, with those around it; "" outside of modules.
      source: the file, line and function that wrote it.
      readers: the numbers of all equations that read the result, and so share the meeting.
      depth: how many meetings in a row end with this one, when the program first comes to it.
    """

    kind: str
    axes: tuple[str, ...]
    devices: int
    bytes: int
    times: int
    why: str
    equation: int | None
    maker: int | None
    primitive: str
    letter: str
    module: str
    source: str
    readers: tuple[int, ...]
    depth: int

    @property
    def wire(self) -> float:
        """The bytes that one device sends, each time, by ring algorithms."""
        return wire_bytes(self.kind, self.devices, self.bytes)


def wire_bytes(kind: str, devices: int, size: int) -> float:
    """The bytes that one of `devices` sends by a ring algorithm for a result of `size` bytes on each.

    An all-reduce is a reduce-scatter and an all-gather: Thakur, Rabenseifner and Gropp, "Optimization of
    collective communication operations in MPICH", 2005.

    >>> wire_bytes("all-reduce", 4, 1000), wire_bytes("all-gather", 4, 1000)
    (1500.0, 750.0)
    """
    others = (devices - 1) / devices
    share = {
        "all-reduce": 2 * others,
        "all-gather": others,
        "reduce-scatter": devices - 1.0,
        "all-to-all": others,
        "collective-permute": 1.0,
    }
    return share[kind] * size


def meeting_of(exchange: Exchange, equations: dict[int, NumberedEquation], depth: int) -> Meeting:
    """The meeting that an exchange is, with what is known of its equation."""
    equation = None if exchange.equation is None else equations.get(exchange.equation)
    return Meeting(
        kind=exchange.kind,
        axes=exchange.axes,
        devices=exchange.devices,
        bytes=exchange.bytes,
        times=exchange.times,
        why=_why(exchange, equation),
        equation=exchange.equation,
        maker=exchange.maker,
        primitive="" if equation is None else equation.primitive,
        letter="" if equation is None else equation.kind,
        module="" if equation is None else equation.module,
        source="" if equation is None else equation.source,
        readers=exchange.readers,
        depth=depth,
    )


_OTHER_REDUCTIONS = {
    "max": "maximum",
    "min": "minimum",
    "prod": "product",
    "and": "conjunction",
    "or": "disjunction",
    "argmax": "maximum",
    "argmin": "minimum",
}


def _why(exchange: Exchange, equation: NumberedEquation | None) -> str:
    if exchange.cause == "program":
        return "written in the program"
    if exchange.cause == "halo":
        return "halo"
    if exchange.cause == "layout":
        return "relayout"
    primitive = "" if equation is None else equation.primitive
    return f"{_OTHER_REDUCTIONS.get(primitive.removeprefix('reduce_'), 'sum')} over a split dimension"


class Sent(Protocol):
    """What bytes are counted of: a `Meeting`, or a collective of a compiled program."""

    @property
    def axes(self) -> tuple[str, ...]:
        """The mesh axes along which devices meet."""
        ...

    @property
    def times(self) -> int:
        """How often."""
        ...

    @property
    def wire(self) -> float:
        """The bytes that one device sends, each time."""
        ...


def bytes_per_axis(meetings: Iterable[Sent]) -> dict[str, int]:
    """The bytes that one device sends in a run, by mesh axes; those that meet together are joined by "+"."""
    total: Counter[str] = Counter()
    for meeting in meetings:
        total["+".join(meeting.axes)] += round(meeting.wire * meeting.times)
    return dict(total)
