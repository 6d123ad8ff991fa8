"""The frontier of memory against overhead, as SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from html import escape

from bwsk_jax import Plan
from bwsk_jax.inspection.text import binary, plan_line

__all__ = ["chart"]

WIDTH, HEIGHT = 760, 380
LEFT, RIGHT, TOP, BOTTOM = 78, 20, 18, 52
NICE = sorted(digit * 10.0**power for power in range(-4, 4) for digit in (1, 2, 5))
ROUND = (1, 2, 5, 10, 20, 50, 100, 200, 500)
NICE_BYTES = sorted(digit * 2**unit for unit in (0, 10, 20, 30) for digit in ROUND)
APART = 34
"""The least number of pixels between two ticks."""


def chart(plan: Plan, inverting: Sequence[Plan], replaying: Sequence[Plan]) -> str:
    """Return the chart of both frontiers and the plan.

    The axes show square roots, because what is interesting lies near 0 on either.
    """
    plans = [plan, *inverting, *replaying]
    most_bytes = max(1, plan.residual_bytes, *(p.saved_bytes for p in plans))
    most_work = max(0.01, *(p.overhead for p in plans))
    x = lambda overhead: LEFT + math.sqrt(overhead / most_work) * (WIDTH - LEFT - RIGHT)
    y = lambda count: HEIGHT - BOTTOM - math.sqrt(count / most_bytes) * (HEIGHT - TOP - BOTTOM)
    at = lambda p: (x(p.overhead), y(p.saved_bytes))
    parts = [
        *_grid(x, y, most_work, most_bytes),
        f'<line class="plain" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(plan.residual_bytes):.1f}" '
        f'y2="{y(plan.residual_bytes):.1f}"/>',
        _steps("replaying", [at(p) for p in replaying]),
        _steps("inverting", [at(p) for p in inverting]),
        *(_point("replaying", at(p), p, _square) for p in replaying),
        *(_point("inverting", at(p), p, _circle) for p in inverting),
        _point("chosen", at(plan), plan, lambda x, y: f'<circle cx="{x:.1f}" cy="{y:.1f}" r="10"/>'),
    ]
    label = "Bytes saved against overhead, with inverses and by replaying alone"
    box = f'role="img" aria-label="{label}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    return f'<svg id="frontier" {box}>{"".join(parts)}</svg>'


def _grid(x: Callable, y: Callable, most_work: float, most_bytes: float) -> Iterator[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    for overhead in _spaced([0.0, *(share for share in NICE if share <= most_work)], x):
        at = f"{x(overhead):.1f}"
        yield f'<line class="grid" x1="{at}" x2="{at}" y1="{TOP}" y2="{bottom}"/>'
        yield f'<text x="{at}" y="{bottom + 20}" text-anchor="middle">{100 * overhead:.4g}%</text>'
    for count in _spaced([0, *(count for count in NICE_BYTES if count <= most_bytes)], y):
        at = y(count)
        yield f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>'
        size = binary(count).replace(".0", "")
        yield f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{size}</text>'
    upwards = f'transform="translate(14 {(TOP + bottom) / 2}) rotate(-90)"'
    yield f'<text {upwards} text-anchor="middle">saved</text>'
    yield f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 8}" text-anchor="middle">overhead</text>'


def _spaced(values: Sequence[float], at: Callable[[float], float]) -> list[float]:
    """Return values that are far enough apart: the first one, then as many as fit from the last one down."""
    kept: list[float] = []
    for value in (values[0], *reversed(values[1:])):
        if all(abs(at(value) - at(other)) >= APART for other in kept):
            kept.append(value)
    return kept


def _steps(series: str, points: Sequence[tuple[float, float]]) -> str:
    """Return the line through the plans; a budget between two of them buys the plan of the smaller budget."""
    first, *rest = sorted(points)
    path = f"M{first[0]:.1f} {first[1]:.1f}" + "".join(f"H{x:.1f}V{y:.1f}" for x, y in rest)
    return f'<path class="line {series}" d="{path}"/>'


def _point(series: str, at: tuple[float, float], plan: Plan, shape: Callable[[float, float], str]) -> str:
    said = escape(f"{series}: {binary(plan.saved_bytes)}; {plan_line(plan)}")
    return f'<g class="point {series}" tabindex="0"><title>{said}</title>{shape(*at)}</g>'


def _circle(x: float, y: float) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5"/>'


def _square(x: float, y: float) -> str:
    return f'<rect x="{x - 4.5:.1f}" y="{y - 4.5:.1f}" width="9" height="9"/>'
