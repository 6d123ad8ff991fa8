"""The equations of each body: rows of HTML, beside a graph in SVG of what reads what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from bwsk_jax import Report
from bwsk_jax.classification.report import Line, Phase
from bwsk_jax.inspection.page.layout import Edge, Layout, Node, lay_out
from bwsk_jax.inspection.text import place

__all__ = ["graphs"]

ROW, COLUMN, MARGIN = 24, 22, 18
"""Height of a row, width of a column, and room to the left of the first, in pixels."""

STYLES = {"S": "preserves", "~S": "preserves narrowed", "K": "erases", "B": "composes"}


def graphs(strict: Report) -> str:
    """Return a section for each body; the one with the most equations is open."""
    bodies: dict[int | None, list[Line]] = {}
    for line in strict.lines:
        bodies.setdefault(line.parent, []).append(line)
    largest = max(bodies.values(), key=len, default=None)
    return "\n".join(
        _section(strict, parent, lines, is_open=lines is largest) for parent, lines in bodies.items()
    )


def _section(strict: Report, parent: int | None, lines: Sequence[Line], *, is_open: bool) -> str:
    layout = lay_out(lines)
    numbers = {line.number for line in lines}
    phases = [phase for phase in strict.phases if phase.first in numbers]
    modules = [node.line.module if node.line else "" for node in layout.nodes]
    rows = "".join(
        _row(node, "" if module == before else module)
        for node, module, before in zip(layout.nodes, modules, ["", *modules], strict=False)
    )
    counts = ", ".join(
        f"{count} {kind}" for kind in ("S", "~S", "K") if (count := sum(e.kind == kind for e in lines))
    )
    return (
        f"<details class=body{' open' if is_open else ''}><summary>{escape(_title(strict, parent))}"
        f" <span class=quiet>{len(lines)} equations: {counts}; {len(phases)} S-phases</span></summary>"
        f'<div class=scroll><div class=graph style="--lanes:{_left(layout.columns)}px">'
        f'<svg aria-hidden="true" width="100%" height="{ROW * len(layout.nodes)}">'
        f"{''.join(_bands(layout, phases))}{''.join(map(_edge, layout.edges))}"
        f"{''.join(map(_mark, layout.nodes))}</svg>{rows}</div></div></details>"
    )


def _title(strict: Report, parent: int | None) -> str:
    if parent is None:
        return "The function"
    times = strict.rounds[parent]
    return f"Inside line {parent}, {strict.lines[parent].primitive}" + (f" x {times}" if times != 1 else "")


def _left(column: int) -> int:
    return MARGIN + COLUMN * column


def _middle(row: int) -> int:
    return ROW * row + ROW // 2


def _bands(layout: Layout, phases: Sequence[Phase]) -> Iterator[str]:
    rows = {node.line.number: node.row for node in layout.nodes if node.line}
    for phase in phases:
        top, bottom = rows[phase.first], rows[phase.last]
        yield (
            f'<rect class="phase" x="2" y="{ROW * top + 1}" width="100%" rx="6" '
            f'height="{ROW * (bottom - top + 1) - 2}"/>'
        )


def _edge(edge: Edge) -> str:
    x, y = _left(edge.source.column), _middle(edge.source.row)
    to_x, to_y = _left(edge.target.column), _middle(edge.target.row)
    turn = to_y - ROW
    path = f"M{x} {y}V{turn}C{x} {turn + ROW * 0.6:.0f} {to_x} {turn + ROW * 0.4:.0f} {to_x} {to_y}"
    return f'<path class="edge" data-from="{edge.source.row}" data-to="{edge.target.row}" d="{path}"/>'


def _mark(node: Node) -> str:
    x, y = _left(node.column), _middle(node.row)
    if node.line is None:
        return f'<circle class="input" cx="{x}" cy="{y}" r="4"/>'
    kind = node.line.kind
    return (
        f'<g class="{STYLES[kind]}"><circle cx="{x}" cy="{y}" r="9"/>'
        f'<text x="{x}" y="{y + 4}" text-anchor="middle">{kind}</text></g>'
    )


def _row(node: Node, module: str) -> str:
    if node.line is None:
        return f'<div class="row quiet" data-row="{node.row}"><b></b><b>input {node.values[0]}</b></div>'
    line = node.line
    cells = (" ".join(line.types), line.why, module, place(line.source))
    return (
        f'<div class="row" tabindex="0" id="l{line.number}" data-row="{node.row}" data-line="{line.number}">'
        f"<b class=quiet>{line.number}</b><b>{escape(line.primitive)}</b>"
        f"{''.join(f'<span>{escape(cell)}</span>' for cell in cells)}</div>"
    )
