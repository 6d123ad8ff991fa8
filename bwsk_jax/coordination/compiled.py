"""The collectives of a compiled program, with the mesh axes over which devices meet."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bwsk_jax.coordination.meetings import wire_bytes
from bwsk_jax.targets.hlo import Collective, collectives

__all__ = ["CompiledCollective", "compiled_collectives"]


@dataclasses.dataclass(frozen=True)
class CompiledCollective:
    """An array that devices exchange in a compiled program; a meeting for several arrays is one for each."""

    kind: str
    axes: tuple[str, ...]
    devices: int
    bytes: int
    times: int
    operation: str
    """The operation of the traced function that it belongs to, as the compiler names it."""

    @property
    def wire(self) -> float:
        """The bytes that one device sends, each time, by ring algorithms."""
        return wire_bytes(self.kind, self.devices, self.bytes)


def compiled_collectives(compiled: Any, sizes: dict[str, int]) -> list[CompiledCollective]:
    """The collectives of a compiled program, or of its text, on a mesh with axes of these sizes."""
    text = compiled if isinstance(compiled, str) else compiled.as_text()
    return [each for found in collectives(text or "") for each in _arrays(found, sizes)]


def _arrays(found: Collective, sizes: dict[str, int]) -> Iterator[CompiledCollective]:
    groups = _groups(found.instruction, math.prod(sizes.values()))
    axes = _varying(groups, sizes)
    # The parts of an all-to-all are the pieces of one array.
    parts = (found.bytes,) if found.kind == "all-to-all" else found.parts
    devices = (
        math.prod(sizes[axis] for axis in axes) if found.kind == "collective-permute" else len(groups[0])
    )
    for part in parts:
        if devices > 1:
            yield CompiledCollective(found.kind, axes, devices, part, found.times, found.operation)


def _varying(groups: Sequence[Sequence[int]], sizes: dict[str, int]) -> tuple[str, ...]:
    """The mesh axes along which the devices of a group differ."""
    places = [np.unravel_index(np.array(group), tuple(sizes.values())) for group in groups]
    return tuple(
        axis for k, axis in enumerate(sizes) if any(len(set(place[k].tolist())) > 1 for place in places)
    )


def _groups(instruction: str, devices: int) -> list[tuple[int, ...]]:
    """The devices that meet. XLA has four ways to write them, and may write nothing for all devices.

    >>> _groups("replica_groups={{0,1},{2,3}}", 4) == _groups("replica_groups=[2,2]<=[4]", 4)
    True
    >>> _groups("replica_groups=[2,2]<=[2,2]T(1,0)", 4)
    [(0, 2), (1, 3)]
    >>> _groups("replica_groups=mesh['a'=2,'b'=2] {'a'}", 4)
    [(0, 2), (1, 3)]
    """
    if listed := re.search(r"(?:replica_groups|source_target_pairs)=\{(\{.*?\})\}", instruction):
        return [tuple(map(int, group.split(","))) for group in re.findall(r"\{([\d,]+)\}", listed[1])]
    if counted := re.search(r"replica_groups=(\[[\d,]+\]<=\[[\d,]+\](?:T\([\d,]+\))?)", instruction):
        return [tuple(row) for row in _iota(counted[1], devices).tolist()]
    named = re.search(
        r"replica_groups=mesh\[(.*?)\](?:, ?device_ids=\((.*?\]?(?:T\(.*?\))?)\))? \{(.*?)\}", instruction
    )
    if not named:
        return [tuple(range(devices))]
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", named[1])}
    ids = (_iota(named[2], devices) if named[2] else np.arange(devices)).reshape(tuple(sizes.values()))
    meeting = [list(sizes).index(name) for name in re.findall(r"'([^']+)'", named[3])]
    others = [k for k in range(len(sizes)) if k not in meeting]
    size = math.prod(ids.shape[k] for k in meeting)
    return [tuple(row) for row in ids.transpose(others + meeting).reshape(-1, size).tolist()]


def _iota(text: str, devices: int) -> np.ndarray:
    """Device numbers as XLA counts them: `[rows,columns]<=[shape]T(order)`, or `[shape]T(order)`."""
    found = re.fullmatch(r"(?:\[([\d,]+)\]<=)?\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
    assert found is not None, text
    listed = lambda numbers: [int(n) for n in numbers.split(",")]
    ids = np.arange(devices).reshape(listed(found[2]))
    ids = ids.transpose(listed(found[3])) if found[3] else ids
    return ids.reshape(listed(found[1])) if found[1] else ids.reshape(-1)
