"""What a classification says, as data, as text and as JSON."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["SCHEMA", "Line", "Module", "Phase", "Report"]

SCHEMA = 1
"""Version of the JSON; it changes when a key is renamed, removed or given another meaning."""

KINDS = ("S", "~S", "K")


@dataclasses.dataclass(frozen=True)
class Line:
    """What is said of one equation.

    Attributes:
      number: its place in the report.
      parent: the line of the loop, conditional or call that it stands in; None at the top.
      depth: how many of them it stands in.
      kind: "S", "~S" (S up to a narrower type), "K", or "B" for a loop, conditional or call: the composition
        of the lines below it.
      primitive: the name of its primitive.
      why: how it is inverted, or how it erases.
      operand: the number of the operand that is solved for; None without an inverse.
      given: the side information, which is the values that the inverse reads besides the results.
      side_bytes: the size of the side information, each value where it was smallest on its way, such as
        before a broadcast.
      grade: how exact the inverse is: "exact", "relative", "rounded", "guarded" or "narrowed", as in
        `bwsk_jax.Grade`; "" without an inverse.
      amplification: what multiplies an absolute error on the way back: a constant, or a factor's usual size.
      condition: where a guarded or narrowed inverse holds; "" for any other.
      inputs, outputs: its values, as `body:number`; a literal is written out.
      in_types, types: the types of the inputs and of the outputs, such as "f32[4,128]".
      bytes_in, bytes_out, flops: what one evaluation reads, writes and computes.
      repeats: how often it is evaluated, as far as that is known (a `while` counts once).
      module: the name of the module that it stands in, with those around it; "" outside of modules.
      source: the file, line and function that wrote it.
    """

    number: int
    parent: int | None
    depth: int
    kind: str
    primitive: str
    why: str
    operand: int | None
    given: tuple[str, ...]
    side_bytes: int
    grade: str
    amplification: float
    condition: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    in_types: tuple[str, ...]
    types: tuple[str, ...]
    bytes_in: int
    bytes_out: int
    flops: float
    repeats: int
    module: str
    source: str


@dataclasses.dataclass(frozen=True)
class Phase:
    """A maximal run of S and ~S lines between the K lines of one body.

    Attributes:
      first, last, lines: the numbers of its lines.
      bytes_in, bytes_out: the size of the values that enter it and of those that leave it.
      gives_back: the residuals of plain autodiff that its inverses recover from what leaves it; None where
        the body has no derivative.
      bytes_given_back: the size of these residuals.
      given: the side information, which is the values entering the phase that the inverses read.
      repeats: how often it is evaluated, as far as that is known.
    """

    first: int
    last: int
    lines: tuple[int, ...]
    bytes_in: int
    bytes_out: int
    gives_back: tuple[str, ...] | None
    bytes_given_back: int
    given: tuple[str, ...]
    repeats: int


@dataclasses.dataclass(frozen=True)
class Module:
    """What is said of one module.

    Attributes:
      name: its name, with those of the modules around it. Layers of a list, which one line calls in turn, may
        share a name.
      kind: "S" if an input that is followed can be recovered from the module's outputs. The inverses may read
        what is at hand (parameters, other inputs of the module) and what is small beside the input. Else "K".
      lines: the numbers of its lines in one body.
      bytes, flops: what one evaluation reads and computes.
      repeats: how often it is evaluated, as far as that is known.
      leaf: whether it has no modules inside. One that only draws random keys is no leaf, and does not count
        as one inside another.
    """

    name: str
    kind: str
    lines: tuple[int, ...]
    bytes: int
    flops: float
    repeats: int
    leaf: bool = True


@dataclasses.dataclass(frozen=True)
class Report:
    """What preserves and what erases in a function. `str()` is a table, `to_json()` the same for machines.

    Attributes:
      taxonomy: "strict" or "reference".
      lines, phases, modules: what is said of equations, of runs of them, and of modules.
      values: how many values have one reader ("B"), several ("W") and none ("K").
    """

    taxonomy: str
    lines: tuple[Line, ...]
    phases: tuple[Phase, ...]
    modules: tuple[Module, ...]
    values: dict[str, int]

    @functools.cached_property
    def ratios(self) -> dict[str, dict[str, float]]:
        """The shares of S, ~S and K: of the "equations", the "bytes" they read, "flops", and leaf "modules".

        Everything counts as often as it is evaluated.
        """
        equations = [line for line in self.lines if line.kind != "B"]
        leaves = [module for module in self.modules if module.leaf]
        return {
            "equations": _shares(equations, lambda line: line.repeats),
            "bytes": _shares(equations, lambda line: line.repeats * line.bytes_in),
            "flops": _shares(equations, lambda line: line.repeats * line.flops),
            "modules": _shares(leaves, lambda module: module.repeats),
        }

    @functools.cached_property
    def rounds(self) -> dict[int, int]:
        """How often the body of a line is evaluated each time that the line is; the keys are lines."""
        outer = {line.number: line.repeats for line in self.lines}
        return {
            line.parent: line.repeats // outer[line.parent] if outer[line.parent] else 0
            for line in self.lines
            if line.parent is not None
        }

    @property
    def leaf_modules(self) -> dict[str, int]:
        """How many leaf modules are "S" and how many "K"."""
        count = lambda kind: sum(m.repeats for m in self.modules if m.leaf and m.kind == kind)
        return {"S": count("S"), "K": count("K")}

    @property
    def combinators(self) -> dict[str, int]:
        """B: values with one reader, W: with several, S: what preserves, K: what erases and unread values."""
        count = lambda *kinds: sum(line.repeats for line in self.lines if line.kind in kinds)
        return self.values | {"S": count("S", "~S"), "K": count("K") + self.values["K"]}

    def to_dict(self) -> dict[str, Any]:
        """The report as plain lists and dictionaries."""
        return {
            "schema": SCHEMA,
            "taxonomy": self.taxonomy,
            "combinators": self.combinators,
            "ratios": self.ratios,
            "leaf_modules": self.leaf_modules,
            "equations": list(map(dataclasses.asdict, self.lines)),
            "phases": list(map(dataclasses.asdict, self.phases)),
            "modules": list(map(dataclasses.asdict, self.modules)),
        }

    def to_json(self) -> str:
        """The report as JSON."""
        return json.dumps(self.to_dict())

    def summary(self) -> str:
        """The ratios and counts, without the equations."""
        rows = [("", *KINDS)]
        rows += [(by, *(f"{share[kind]:.1%}" for kind in KINDS)) for by, share in self.ratios.items()]
        counted = ", ".join(f"{count:,} {name}" for name, count in self.combinators.items())
        leaves = self.leaf_modules
        return (
            f"{self.taxonomy} taxonomy: {counted}; {len(self.phases)} S-phases; "
            f"{sum(leaves.values())} leaf modules, {leaves['S']} S and {leaves['K']} K\n{_table(rows)}"
        )

    def __str__(self) -> str:
        head = ("", "kind", "primitive", "result", "side bytes", "why", "module", "source")
        rows = [_row(line, self.rounds.get(line.number, 1)) for line in self.lines]
        return f"{self.summary()}\n\n{_table([head, *rows])}"


def _row(line: Line, times: int) -> tuple[str, ...]:
    return (
        str(line.number),
        line.kind,
        "  " * line.depth + line.primitive + (f" x {times}" if times != 1 else ""),
        " ".join(line.types),
        f"{line.side_bytes:,}" if line.side_bytes else "",
        line.why + (f" ({line.condition})" if line.condition else ""),
        line.module,
        line.source,
    )


def _shares(items: Iterable[Any], weight: Callable[[Any], float]) -> dict[str, float]:
    total = dict.fromkeys(KINDS, 0.0)
    for item in items:
        total[item.kind] += weight(item)
    whole = sum(total.values()) or 1.0
    return {kind: share / whole for kind, share in total.items()}


def _table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
