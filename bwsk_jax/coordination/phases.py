"""How meetings follow each other: the critical path, and the phases without meetings in between."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from bwsk_jax.coordination.steps import Block, Exchange, Step

__all__ = ["Phase", "critical_path", "depths", "phases"]


@dataclasses.dataclass(frozen=True)
class Phase:
    """Equations that run without any meeting in between.

    Attributes:
      loop: the number of the loop whose body they stand in; None for the program around all loops.
      after: how many meetings in a row they wait for, from the beginning of that body.
      equations: their numbers.
    """

    loop: int | None
    after: int
    equations: tuple[int, ...]


def critical_path(block: Block) -> int:
    """The largest number of meetings in a row, each of which waits for the one before; loops count."""
    return max(_Depths().all_of(block).values(), default=0)


def depths(block: Block) -> dict[Exchange, int]:
    """For each exchange, how many meetings in a row end with it when the program first comes to it."""
    found = _Depths()
    found.all_of(block)
    return found.exchanges


def phases(block: Block, loop: int | None = None) -> list[Phase]:
    """The phases of a program and of the bodies of its loops. A loop with meetings inside is in none."""
    reached = _Depths()
    depth_of = reached.all_of(block)
    found: dict[int, dict[int, None]] = {}
    for step in block.steps:
        if step.equation is not None and not step.meets:
            after = max((depth_of.get(value, 0) for value in step.reads), default=0)
            found.setdefault(after, {})[step.equation] = None
    here = [Phase(loop, after, tuple(sorted(numbers))) for after, numbers in sorted(found.items())]
    inner = [
        phase
        for step in block.steps
        if step.bodies and step.meets
        for body in step.bodies
        for phase in phases(body, step.equation)
    ]
    return here + inner


class _Depths:
    """Runs a program on numbers: the depth of a value is that of the meetings in a row that lead to it."""

    def __init__(self):
        self.values: dict[int, int] = {}
        self.exchanges: dict[Exchange, int] = {}

    def all_of(self, block: Block) -> dict[int, int]:
        self.run(block, [0] * len(block.inputs))
        return self.values

    def run(self, block: Block, inputs: Iterable[int]) -> list[int]:
        self.values.update(zip(block.inputs, inputs, strict=True))
        for step in block.steps:
            self.values.update(zip(step.makes, self.step(step), strict=True))
        return [self.values.get(value, 0) for value in block.outputs]

    def step(self, step: Step) -> list[int]:
        reached = [self.values.get(value, 0) for value in step.reads]
        if not step.bodies:
            depth = max(reached, default=0) + bool(step.exchanges)
            for exchange in step.exchanges:
                self.exchanges.setdefault(exchange, depth)
            return [depth] * len(step.makes)
        if len(step.bodies) == 1:
            (branch,) = step.bodies
            return [max(depth, *reached) for depth in self.run(branch, ())]
        condition, body = step.bodies
        for _ in range(step.trips):
            self.run(condition, reached)
            reached = self.run(body, reached)
        return reached
