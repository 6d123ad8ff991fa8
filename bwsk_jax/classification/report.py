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
    """One equation.

    Attributes:
      number: its place in the report.
      parent: the line whose body it stands in, None at the top.
      depth: how many bodies it stands in.
      kind: "S", "~S" (up to a narrower type), "K", or "B" for a loop, conditional or call: the composition of
        the lines below it.
      primitive: its name.
      why: how it is inverted, or how it erases.
      operand: the number of the operand that is solved for; None unless S or ~S.
      given: the values that this takes besides the results: the side information.
      side_bytes: their size, each counted where it was smallest on its way (before a broadcast).
      grade: "exact", "relative", "rounded", "guarded" or "narrowed" (see `bwsk_jax.engine.rules`); "" unless
        S or ~S.
      amplification: by what factor a constant in it multiplies an absolute error on the way back.
      condition: where the inverse holds.
      inputs, outputs: its values, as `body:number`; a literal is written out.
      in_types, types: of the inputs and of the outputs, such as "f32[4,128]".
      bytes_in, bytes_out, flops: of one evaluation.
      repeats: how often it is evaluated, as far as that is known (a `while` counts once).
      module: name stack of the module that it stands in.
      source: file, line and function that wrote it.
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
    """A maximal run of S lines between K lines of one body.

    `gives_back` are the residuals of plain autodiff that its inverses recover from what leaves it, given
    the values that enter it and are named in `given`; None where the body has no derivative.
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
    """The lines of one module: S if a followed input of it can be had back from its outputs.

    What the way back reads has to be at hand (parameters, other inputs of the module) or small beside the
    input. Layers of a list, which one line calls in turn, may share a name. `leaf` modules have no modules
    inside, but for those that only draw keys.
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
    """S and K of a function. `str()` is a table, `to_json()` the same for machines.

    `values` counts how often a value is handed on: "B" to one reader, "W" to several, "K" to none.
    """

    taxonomy: str
    lines: tuple[Line, ...]
    phases: tuple[Phase, ...]
    modules: tuple[Module, ...]
    values: dict[str, int]

    @functools.cached_property
    def ratios(self) -> dict[str, dict[str, float]]:
        """The shares of S, ~S and K: by "equations", "bytes" read, "flops", and leaf "modules".

        A line counts as often as it is evaluated.
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
        """How often the body of each line that has one is evaluated when the line is, where that is known."""
        outer = {line.number: line.repeats for line in self.lines}
        return {
            line.parent: line.repeats // outer[line.parent] if outer[line.parent] else 0
            for line in self.lines
            if line.parent is not None
        }

    @property
    def leaf_modules(self) -> dict[str, int]:
        """How many leaf modules are "S" and "K"."""
        count = lambda kind: sum(m.repeats for m in self.modules if m.leaf and m.kind == kind)
        return {"S": count("S"), "K": count("K")}

    @property
    def combinators(self) -> dict[str, int]:
        """B: values handed on, W: values used more than once, S: preserving, K: erasing or never used."""
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
