"""A classification and a plan as text for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from bwsk_jax import Plan, Report
from bwsk_jax.classification.report import Line
from bwsk_jax.inspection.fates import Fate, fates, residual_fates, total_bytes

__all__ = ["Paint", "binary", "decimal", "difference_text", "place", "plan_text", "report_text"]

Paint = Callable[[str, str], str]
"""`paint(style, text)`: the text in the colour of a kind or a fate, or as it is."""

COLOURS = {"S": 36, "~S": 36, "K": 33, "B": 2, "saved": 33, "inverted": 36, "replayed": 2}


def ansi(style: str, text: str) -> str:
    """Colour for a terminal."""
    return f"\x1b[{COLOURS[style]}m{text}\x1b[0m" if style in COLOURS else text


def plain(style: str, text: str) -> str:
    """No colour."""
    return text


def binary(count: float) -> str:
    """Bytes, to read.

    >>> binary(1000), binary(3 * 2**19)
    ('1000 B', '1.5 MiB')
    """
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def decimal(count: float) -> str:
    """FLOPs, to read.

    >>> decimal(12), decimal(2.4e9)
    ('12', '2.4 G')
    """
    for unit in ("", " k", " M", " G"):
        if count < 1000:
            return f"{count:.0f}" if not unit else f"{count:.1f}{unit}"
        count /= 1000
    return f"{count:.1f} T"


def place(source: str) -> str:
    """File and line of a source, without the folders.

    >>> place("/home/me/model.py:58:15 (Dropout.__call__)")
    'model.py:58'
    """
    path, _, _ = source.partition(" (")
    return ":".join(path.rpartition("/")[2].split(":")[:2])


# --- classification ----------------------------------------------------------------------------------------


def report_text(strict: Report, reference: Report, *, unfold: bool, paint: Paint) -> str:
    """One line per module, or per equation if `unfold`: what both taxonomies say of it."""
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
    """Equations with a body or outside of modules one by one, the rest by module, at its first line."""
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
    """Value by value, in the order of the backward pass, how it is had."""
    return f"Plan for {unit}: {plan_line(plan)}\n{_fate_table(fates(plan), paint)}"


def plan_line(plan: Plan) -> str:
    """What a plan saves and costs."""
    refused = "" if plan.fallback is None else f" ({plan.fallback_overhead:.2%} where a guard refuses)"
    return (
        f"saves {plan.saved_bytes:,} of {plan.residual_bytes:,} bytes, recomputes {plan.overhead:.2%}"
        f"{refused}, {plan.inverted} inverse steps"
    )


def difference_text(plan: Plan, unit: str, paint: Paint) -> str:
    """What becomes of each residual of plain autodiff under the plan."""
    found = residual_fates(plan)
    totals = ", ".join(f"{how} {count:,}" for how, count in total_bytes(found).items())
    others = [fate for fate in fates(plan) if fate.how == "saved" and not fate.residual]
    besides = f"; saved besides them {sum(fate.bytes for fate in others):,}" if others else ""
    return (
        f"Plain autodiff keeps {plan.residual_bytes:,} bytes for {unit}. "
        f"Of these the plan has: {totals}{besides}\n{_fate_table(found, paint)}"
    )


def _fate_table(found: Sequence[Fate], paint: Paint) -> str:
    head = ("value", "type", "bytes", "how", "equation", "module", "source")
    rows = [
        (
            str(fate.value),
            fate.type,
            f"{fate.bytes:,}",
            fate.how,
            f"solving {fate.primitive} ({fate.grade})" if fate.grade else fate.primitive,
            fate.module,
            place(fate.source),
        )
        for fate in found
    ]
    return table([head, *rows], {0, 2}, {3}, paint)


def table(rows: list[Sequence[str]], right: set[int], painted: set[int], paint: Paint) -> str:
    """Aligned columns; those in `right` to the right, those in `painted` in the colour of what they say."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]

    def cell(row: Sequence[str], k: int) -> str:
        text = row[k].rjust(widths[k]) if k in right else row[k].ljust(widths[k])
        return paint(row[k], text) if k in painted else text

    return "\n".join("  ".join(cell(row, k) for k in range(len(row))).rstrip() for row in rows)
