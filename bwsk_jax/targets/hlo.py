"""Read a compiled program: how long its compiler says that it takes, and where its devices meet.

A loop counts as often as it runs, which its condition says, and once if it does not say; a conditional counts
the branch that takes longest.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["Collective", "collectives", "estimated_cycles"]

_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_BITS = {"pred": 8, "s4": 4, "u4": 4, "c64": 64, "c128": 128}


@dataclasses.dataclass(frozen=True)
class Collective:
    """A meeting of the devices that the compiler put into a program."""

    kind: str
    """all-reduce, all-gather, reduce-scatter, all-to-all or collective-permute."""
    times: int
    """How often a run of the program comes to it."""
    bytes: int
    """Of its result on one device, each time."""
    operation: str
    """The operation of the traced function that it belongs to, as XLA's metadata names it."""
    parts: tuple[int, ...] = dataclasses.field(default=(), compare=False)
    """The bytes of each array of its result, for the compiler may let several meet at once."""
    instruction: str = dataclasses.field(default="", compare=False, repr=False)
    """As the program writes it."""


def collectives(text: str) -> tuple[Collective, ...]:
    """Return the collectives of the optimised program in `text`, in its order."""
    return tuple(
        Collective(
            kind=kind,
            times=run.times,
            bytes=sum(parts := _parts(run.line)),
            operation=_operation(run.line, text),
            parts=parts,
            instruction=run.line.strip(),
        )
        for run in _exchanges(text)
        if (kind := _collective(run.line))
    )


def estimated_cycles(text: str) -> int | None:
    """Return how many cycles the compiler thinks that a run takes; only those of TPUs say so, else None."""
    runs = _runs(text)
    return _total(runs) if any(_cycles(run.line) is not None for run in runs) else None


# --- instructions, as often as they run --------------------------------------------------------------------


class _Run(NamedTuple):
    line: str
    times: int


def _runs(text: str) -> list[_Run]:
    computations, entry = _computations(text)
    return list(_runs_of(entry, 1, computations))


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """The lines of each computation by its name, and the name of the one that runs."""
    found: dict[str, list[str]] = {}
    name = entry = ""
    for line in text.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line)
        if head:
            name = head[2]
            entry = name if head[1] else entry
            found[name] = []
        elif name and line.startswith(" "):
            found[name].append(line)
    return found, entry


def _runs_of(name: str, times: int, computations: dict[str, list[str]]) -> Iterator[_Run]:
    for line in computations[name]:
        if " while(" in line:
            trips = _trips(line, computations[_called("condition", line)])
            yield from _runs_of(_called("body", line), times * trips, computations)
        elif " conditional(" in line:
            branches = [list(_runs_of(branch, times, computations)) for branch in _branches(line)]
            yield from max(branches, key=_total)
        elif " call(" in line:
            yield from _runs_of(_called("to_apply", line), times, computations)
        else:
            yield _Run(line, times)


def _exchanges(text: str) -> Iterator[_Run]:
    """The instructions that may be collectives, those in fusions too.

    A TPU computes while it receives: it fuses parts of one collective, which have its channel, with several
    computations.
    """
    computations, _ = _computations(text)
    seen: set[tuple[str | None, str | None]] = set()
    for run in _runs(text):
        if " fusion(" not in run.line:
            yield run
            continue
        for line in computations.get(_called("calls", run.line), ()):
            part = _collective(line), _first(r"channel_id=(\d+)", line)
            if part[0] and part not in seen:
                seen.add(part)
                yield _Run(line, run.times)


def _total(runs: list[_Run]) -> int:
    """Their cycles; nothing for those of which the compiler says nothing."""
    return sum(run.times * (_cycles(run.line) or 0) for run in runs)


def _called(role: str, line: str) -> str:
    name = _first(rf"{role}=%?([\w.\-]+)", line)
    assert name is not None, line
    return name


def _branches(line: str) -> list[str]:
    several = _first(r"branch_computations=\{([^}]*)\}", line)
    if several is not None:
        return [name.strip().lstrip("%") for name in several.split(",")]
    return [_called("true_computation", line), _called("false_computation", line)]


def _trips(line: str, condition: list[str]) -> int:
    """How often a loop runs: it says so, or its counter starts at 0 and is compared with a constant."""
    said = _first(r'"known_trip_count":\{"n":"(\d+)"', line)
    if said is not None:
        return int(said)
    root = next(line for line in condition if line.lstrip().startswith("ROOT"))
    compared = re.search(r" compare\(([^)]*)\), direction=LT", root)
    operands = re.findall(r"%?([\w.\-]+)(?:,|$)", compared[1]) if compared else []
    constants = {_first(r"%?([\w.\-]+) =", line): _first(r" constant\((\d+)\)", line) for line in condition}
    known = [int(value) for name in operands if (value := constants.get(name))]
    return known[0] if known else 1


def _operation(line: str, text: str) -> str:
    """What an instruction belongs to, or where that is an argument, which has no path, what reads it."""
    name = _first(r'op_name="([^"]*)"', line) or ""
    if not name or "/" in name:
        return name
    result = re.escape(_first(r"(%?[\w.\-]+) =", line) or "")
    _, _, after = text.partition(line)
    reader = re.search(rf"[( ]{result}[,)].*", after)
    if reader is None:
        return name
    start = after.rfind("\n", 0, reader.start()) + 1
    return _operation(after[start : reader.end()], after)


# --- one instruction ---------------------------------------------------------------------------------------


def _cycles(line: str) -> int | None:
    found = _first(r'"estimated_cycles":"(-?\d+)"', line)
    return None if found is None else max(0, int(found))


def _collective(line: str) -> str | None:
    """The kind of a collective. One that runs beside others has a start, which counts, and an end."""
    opcode = _first(r" ([a-z][\w\-]*)\(", line.split(" = ", 1)[-1].split(", metadata=")[0])
    kind = (opcode or "").removesuffix("-start")
    return kind if kind in _COLLECTIVES else None


def _parts(line: str) -> tuple[int, ...]:
    """The bytes of each array of the result, which for a start is the last of a tuple."""
    result = line.split(" = ", 1)[1]
    opcode = re.search(r" [a-z][\w\-]*\(", result)
    assert opcode is not None, line
    types = re.findall(r"\b([a-z]\w*?)\[([\d,]*)\]", result[: opcode.start()])
    if "-start(" in line:
        types = [t for t in types if t[1]][-1:]
    count = lambda shape: math.prod(int(n) for n in shape.split(",") if n)
    return tuple(_bits(kind) * count(shape) // 8 for kind, shape in types)


def _bits(kind: str) -> int:
    return _BITS.get(kind) or int(re.findall(r"\d+", kind)[0])


def _first(pattern: str, line: str) -> str | None:
    found = re.search(pattern, line)
    return found[1] if found else None
