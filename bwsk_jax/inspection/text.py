"""A classification and a plan, as text for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from bwsk_jax import Plan, Report
from bwsk_jax.classification.report import Line
from bwsk_jax.inspection.value_sources import (
    ValueSource,
    residual_sources,
    total_bytes,
    value_sources,
)
from bwsk_jax.inspection.walks import PhaseWalk, walks

__all__ = [
    "WALK_HEAD",
    "Paint",
    "binary",
    "decimal",
    "difference_text",
    "place",
    "plan_text",
    "report_text",
    "walk_rows",
]

Paint = Callable[[str, str], str]
"""`paint(style, text)` returns the text in the colour of a kind or of a value's source, or as it is."""

WALK_HEAD = ("equations", "bytes inverted", "by inverses of", "modules")
"""Of the table of S-phases that a plan walks back through."""
COLOURS = {"S": 36, "~S": 36, "K": 33, "B": 2, "saved": 33, "inverted": 36, "replayed": 2}


def ansi(style: str, text: str) -> str:
    """Return the text in the style's colour on a terminal; as it is where the style has none."""
    return f"\x1b[{COLOURS[style]}m{text}\x1b[0m" if style in COLOURS else text


def plain(style: str, text: str) -> str:
    """Return the text as it is, without colour."""
    return text


def binary(count: float) -> str:
    """Return a number of bytes for people to read, in binary units.

    >>> binary(1000), binary(3 * 2**19)
    ('1000 B', '1.5 MiB')
    """
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def decimal(count: float) -> str:
    """Return a number of FLOPs for people to read, in decimal units.

    >>> decimal(12), decimal(2.4e9)
    ('12', '2.4 G')
    """
    for unit in ("", " k", " M", " G"):
        if count < 1000:
            return f"{count:.0f}" if not unit else f"{count:.1f}{unit}"
        count /= 1000
    return f"{count:.1f} T"


def place(source: str) -> str:
    """Return the file and the line of a source, without the folders and the function.

    >>> place("/home/me/model.py:58:15 (Dropout.__call__)")
    'model.py:58'
    """
    path, _, _ = source.partition(" (")
    return ":".join(path.rpartition("/")[2].split(":")[:2])


# --- classification ----------------------------------------------------------------------------------------


def report_text(strict: Report, reference: Report, *, unfold: bool, paint: Paint) -> str:
    """Return a table of what both taxonomies say: a row for each module, or for each equation if `unfold`."""
    children: dict[int | None, list[Line]] = {}
    for line in strict.lines:
        children.setdefault(line.parent, []).append(line)
    if unfold:
        head = ("strict", "reference", "", "equation", "result", "side", "why", "module", "source")
        rows = [_unfolded(line, reference, strict.rounds) for line in strict.lines]
        right = {2, 5}
    else:
        head = ("strict", "reference", "module or equation", "S", "~S", "K", "reads", "FLOPs")
        rows = list(_folded(strict, reference, strict.rounds, children, None))
        right = {3, 4, 5, 6, 7}
    return table([head, *rows], right, {0, 1}, paint)


def _named(line: Line, rounds: dict[int, int]) -> str:
    times = rounds.get(line.number, 1)
    return "  " * line.depth + line.primitive + (f" x {times}" if times != 1 else "")


def _unfolded(line: Line, reference: Report, rounds: dict[int, int]) -> tuple[str, ...]:
    side = binary(line.side_bytes) if line.side_bytes else ""
    why = line.why + (f", if {line.condition}" if line.condition else "")
    return (
        line.kind,
        reference.lines[line.number].kind,
        str(line.number),
        _named(line, rounds),
        " ".join(line.types),
        side,
        why,
        line.module,
        place(line.source),
    )


def _folded(
    strict: Report, reference: Report, rounds: dict[int, int], children: dict, parent: int | None
) -> Iterator[tuple]:
    """Yield a row for each equation that has a body or belongs to no leaf module, and one for each module.

    A module's row stands where the first of its equations would.
    """
    number_of = {n: k for k, module in enumerate(strict.modules) for n in module.lines}
    shown = set()
    for line in children.get(parent, ()):
        if line.number not in number_of:
            yield _equation(line, reference, rounds)
            yield from _folded(strict, reference, rounds, children, line.number)
        elif (k := number_of[line.number]) not in shown:
            shown.add(k)
            yield _module(strict, reference, k, line.depth)


def _equation(line: Line, reference: Report, rounds: dict[int, int]) -> tuple[str, ...]:
    counts = [str(int(line.kind == kind)) if line.kind != "B" else "" for kind in ("S", "~S", "K")]
    return (
        line.kind,
        reference.lines[line.number].kind,
        f"{_named(line, rounds)} {' '.join(line.types)}",
        *counts,
        binary(line.bytes_in),
        decimal(line.flops),
    )


def _module(strict: Report, reference: Report, k: int, depth: int) -> tuple[str, ...]:
    module = strict.modules[k]
    kinds = [strict.lines[n].kind for n in module.lines]
    return (
        module.kind,
        reference.modules[k].kind,
        "  " * depth + module.name + (f" x {module.repeats}" if module.repeats > 1 else ""),
        *(str(kinds.count(kind)) for kind in ("S", "~S", "K")),
        binary(module.bytes),
        decimal(module.flops),
    )


# --- plan --------------------------------------------------------------------------------------------------


def plan_text(plan: Plan, unit: str, paint: Paint) -> str:
    """Return a table of a plan's values, in the order of the backward pass, and where each comes from."""
    values = _source_table(value_sources(plan), paint)
    return f"Plan for {unit}: {plan_line(plan)}\n{values}\n\n{walk_text(plan, unit, paint)}"


def plan_line(plan: Plan) -> str:
    """Return in one line what a plan saves and what it costs."""
    refused = "" if plan.fallback is None else f" ({plan.fallback_overhead:.2%} where a guard refuses)"
    return (
        f"saves {plan.saved_bytes:,} of {plan.residual_bytes:,} bytes, at an overhead of {plan.overhead:.2%}"
        f"{refused}, {plan.inverted} inverse steps"
    )


def walk_rows(phases: Sequence[PhaseWalk]) -> list[tuple[str, ...]]:
    """Return the rows below `WALK_HEAD`: the phases in which something is inverted."""
    return [(f"{w.first} to {w.last}", f"{w.bytes:,}", w.inverses, w.modules) for w in phases if w.inverted]


def walk_text(plan: Plan, unit: str, paint: Paint) -> str:
    """Return a table of the S-phases that the backward pass walks back through, and by which inverses."""
    phases = walks(plan)
    rows = walk_rows(phases)
    line = f"The backward pass walks back through {len(rows)} of the {len(phases)} S-phases of {unit}"
    if not rows:
        return f"{line}."
    return f"{line}:\n{table([WALK_HEAD, *rows], {1}, set(), paint)}"


def difference_text(plan: Plan, unit: str, paint: Paint) -> str:
    """Return a table of the residuals of plain autodiff, and where the plan gets each of them."""
    residuals = residual_sources(plan)
    totals = ", ".join(f"{how} {count:,}" for how, count in total_bytes(residuals).items())
    others = [source for source in value_sources(plan) if source.how == "saved" and not source.residual]
    besides = f"; saved besides them {sum(source.bytes for source in others):,}" if others else ""
    return (
        f"Plain autodiff keeps {plan.residual_bytes:,} bytes for {unit}. "
        f"Of these the plan has: {totals}{besides}\n{_source_table(residuals, paint)}"
    )


def _source_table(sources: Sequence[ValueSource], paint: Paint) -> str:
    head = ("value", "type", "bytes", "how", "equation", "module", "source")
    rows = [
        (
            str(source.value),
            source.type,
            f"{source.bytes:,}",
            source.how,
            f"solving {source.primitive} ({source.grade})" if source.grade else source.primitive,
            source.module,
            place(source.source),
        )
        for source in sources
    ]
    return table([head, *rows], {0, 2}, {3}, paint)


def table(rows: Sequence[Sequence[str]], right: set[int], painted: set[int], paint: Paint) -> str:
    """Return the rows with their columns aligned, those in `right` to the right.

    Each cell of the columns in `painted` has the colour of what it says.
    """
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]

    def cell(row: Sequence[str], k: int) -> str:
        text = row[k].rjust(widths[k]) if k in right else row[k].ljust(widths[k])
        return paint(row[k], text) if k in painted else text

    return "\n".join("  ".join(cell(row, k) for k in range(len(row))).rstrip() for row in rows)
