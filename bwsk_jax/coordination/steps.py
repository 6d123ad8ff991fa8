"""A partitioned program as plain data: its steps, what each reads, and which of them exchange messages."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Literal

__all__ = ["Block", "Exchange", "Step"]


@dataclasses.dataclass(frozen=True, eq=False)
class Exchange:
    """What devices send each other in one step; its fields have the meaning that they have in a `Meeting`."""

    kind: str
    axes: tuple[str, ...]
    devices: int
    bytes: int
    times: int
    cause: Literal["sum", "layout", "halo", "program"]
    """Each device has a part of a sum, a value lies otherwise than it is needed, the edge of a neighbour's
    part is needed, or a `shard_map` asks for it."""
    equation: int | None
    maker: int | None
    readers: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """An operation. Values are numbers, each made once in the program."""

    equation: int | None
    """The number of the equation that it stems from."""
    reads: tuple[int, ...]
    makes: tuple[int, ...]
    exchanges: tuple[Exchange, ...] = ()
    bodies: tuple[Block, ...] = ()
    """What a loop runs, its condition first; or the branch of a conditional."""
    trips: int = 1
    """How often it runs its bodies."""
    name: str = ""
    """What it does, if parts of sums can be followed through it; see `deferral`."""
    sizes: tuple[int, ...] = ()
    """The bytes of what it makes on one device, if it has a name or an exchange."""
    split: frozenset[str] = frozenset()
    """The mesh axes over which anything that it reads is split, if it has a name."""

    @property
    def meets(self) -> bool:
        """Whether devices exchange anything in it or in its bodies."""
        return bool(self.exchanges) or any(True for body in self.bodies for _ in body.exchanges())


@dataclasses.dataclass(frozen=True, eq=False)
class Block:
    """Steps in an order in which they can run. A body also reads what was made outside of it."""

    inputs: tuple[int, ...]
    steps: tuple[Step, ...]
    outputs: tuple[int, ...]

    def exchanges(self) -> Iterator[Exchange]:
        """All exchanges in it and in the bodies of its steps."""
        for step in self.steps:
            yield from step.exchanges
            for body in step.bodies:
                yield from body.exchanges()
