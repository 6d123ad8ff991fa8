"""Where to draw the equations of one body: a row each, in a column that its results keep while they are read.

The picture of a version history: rows in program order, a value runs down its column to its last reader. So
the drawing is as wide as the most values that are alive at once, and no line runs through a node.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from bwsk_jax.classification.report import Line

__all__ = ["Drawing", "Edge", "Node", "draw"]


@dataclass(frozen=True)
class Node:
    """A row: an equation, or an input of the body (`line` is None) that several equations read."""

    row: int
    lane: int
    line: Line | None
    values: tuple[str, ...]


@dataclass(frozen=True)
class Edge:
    """From the row that makes a value to one that reads it."""

    source: Node
    target: Node


@dataclass(frozen=True)
class Drawing:
    """All nodes in the order of their rows, all edges, and the number of columns."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    lanes: int


def draw(lines: Sequence[Line]) -> Drawing:
    """Lay out the lines of one body, given in program order."""
    items = [*(((value,), None) for value in _shared_inputs(lines)), *((e.outputs, e) for e in lines)]
    makers = {value: row for row, (values, _) in enumerate(items) for value in values}
    sources = [_sources(line, makers) for _, line in items]
    last = list(range(len(items)))
    for row, made in enumerate(sources):
        for source in made:
            last[source] = row
    nodes: list[Node] = []
    lanes: list[int] = []  # the row that holds each lane
    for row, (values, line) in enumerate(items):
        ending = [nodes[source].lane for source in sources[row] if last[source] == row]
        free = [lane for lane, holder in enumerate(lanes) if last[holder] < row]
        lane = next(iter([*ending, *free]), len(lanes))
        lanes[lane : lane + 1] = [row]
        nodes.append(Node(row, lane, line, tuple(values)))
    edges = [Edge(nodes[source], node) for node in nodes for source in sources[node.row]]
    return Drawing(tuple(nodes), tuple(edges), len(lanes))


def _shared_inputs(lines: Sequence[Line]) -> list[str]:
    """What several lines read and none makes: a parameter that one line reads would only be in the way."""
    made = {value for line in lines for value in line.outputs}
    readers = Counter(value for line in lines for value in dict.fromkeys(line.inputs) if value not in made)
    return [value for value, count in readers.items() if count > 1 and ":" in value]


def _sources(line: Line | None, makers: dict[str, int]) -> list[int]:
    if line is None:
        return []
    return list(dict.fromkeys(makers[value] for value in line.inputs if value in makers))
