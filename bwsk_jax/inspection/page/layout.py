"""Where to draw the equations of one body: in rows, and in columns that results keep while they are read.

The drawing is like that of a version history. Rows are in program order, and a value runs down its column to
its last reader. The drawing is therefore as wide as the largest number of values that are alive at once, and
no line runs through a node that it does not belong to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from bwsk_jax.classification.report import Line

__all__ = ["Edge", "Layout", "Node", "lay_out"]


@dataclass(frozen=True)
class Node:
    """A row: an equation, or an input of the body (`line` is None) that several equations read."""

    row: int
    column: int
    line: Line | None
    values: tuple[str, ...]


@dataclass(frozen=True)
class Edge:
    """A connection from the row that makes a value to a row that reads it."""

    source: Node
    target: Node


@dataclass(frozen=True)
class Layout:
    """All nodes in the order of their rows, all edges, and the number of columns."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    columns: int


def lay_out(lines: Sequence[Line]) -> Layout:
    """Lay out the lines of one body, which are given in program order."""
    items: list[tuple[tuple[str, ...], Line | None]] = [
        *(((value,), None) for value in _shared_inputs(lines)),
        *((line.outputs, line) for line in lines),
    ]
    makers = {value: row for row, (values, _) in enumerate(items) for value in values}
    sources = [_sources(line, makers) for _, line in items]
    last_reader = list(range(len(items)))
    for row, read in enumerate(sources):
        for source in read:
            last_reader[source] = row
    nodes: list[Node] = []
    holders: list[int] = []  # for each column, the row whose results are in it
    for row, (values, line) in enumerate(items):
        ending = [nodes[source].column for source in sources[row] if last_reader[source] == row]
        free = [column for column, holder in enumerate(holders) if last_reader[holder] < row]
        column = next(iter([*ending, *free]), len(holders))
        holders[column : column + 1] = [row]
        nodes.append(Node(row, column, line, tuple(values)))
    edges = [Edge(nodes[source], node) for node in nodes for source in sources[node.row]]
    return Layout(tuple(nodes), tuple(edges), len(holders))


def _shared_inputs(lines: Sequence[Line]) -> list[str]:
    """Return the inputs that several lines read; one that a single line reads would clutter the drawing."""
    made = {value for line in lines for value in line.outputs}
    readers = Counter(value for line in lines for value in dict.fromkeys(line.inputs) if value not in made)
    return [value for value, count in readers.items() if count > 1 and ":" in value]


def _sources(line: Line | None, makers: dict[str, int]) -> list[int]:
    if line is None:
        return []
    return list(dict.fromkeys(makers[value] for value in line.inputs if value in makers))
