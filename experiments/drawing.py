"""Pictures of results, each twice: for light paper and for dark."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

__all__ = ["FIGURES", "draw"]

FIGURES = Path(__file__).parents[1] / "docs" / "figures"
COLOURS = {
    "light": {"paper": "#ffffff", "ink": "#1b1f24", "ours": "#0072b2", "theirs": "#c24e00"},
    "dark": {"paper": "#14181d", "ink": "#e4e8ec", "ours": "#56b4e9", "theirs": "#f0a04b"},
}
STYLED = {
    "ink": ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"),
    "paper": ("figure.facecolor", "axes.facecolor", "savefig.facecolor", "legend.facecolor"),
}
"""Which of matplotlib's settings have these colours."""


def draw(name: str, panels: int, fill: Callable[[Sequence[Axes], dict[str, str]], None]) -> list[Path]:
    """Write `name`_light.svg and `name`_dark.svg, a row of panels each, and return the two files.

    `fill(axes, colours)` fills the panels. The colours are "paper", "ink", "ours" and "theirs". The same
    results give the same files.
    """
    files = []
    for mode, colours in COLOURS.items():
        style: Any = {key: colours[part] for part, keys in STYLED.items() for key in keys}
        with plt.rc_context(style | {"svg.hashsalt": "bwsk_jax", "axes.titlesize": 11}):
            figure, axes = plt.subplots(1, panels, figsize=(3.6 * panels, 3.4), squeeze=False)
            fill(list(axes[0]), colours)
            figure.tight_layout()
            files.append(FIGURES / f"{name}_{mode}.svg")
            FIGURES.mkdir(parents=True, exist_ok=True)
            figure.savefig(files[-1], metadata={"Date": None})
            plt.close(figure)
    return files
