"""Draw memory against time: what plans and JAX's own policies take, family by family.

    python -m experiments.families.frontier --target v5e
    python -m experiments.families.frontier --dtype float32

Expected: docs/figures/frontier_v5e_light.svg and docs/figures/frontier_v5e_dark.svg, drawn from what
`python -m experiments.families.rivals --target v5e` has written; without a target frontier_cpu_light.svg and
frontier_cpu_dark.svg, or those of another device that is here.
Cost: seconds.
"""

import argparse
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from experiments import records
from experiments.drawing import draw
from experiments.families.rivals import LIMITS, PLAIN, POLICIES, cost

SHOWN = ("BERT, post-norm", "RevNet", "leapfrog")
SHORT = {
    PLAIN: "plain\nautodiff",
    "dots_saveable": "dots",
    "dots_with_no_batch_dims_saveable": "dots,\nno batch",
}


def points(found: dict[str, Any], ways: Any) -> list[tuple[str, float, float]]:
    """Return (way, MiB of temporaries, time) of those ways that fit.

    The time is in millions of cycles, or in units of plain autodiff's.
    """
    fitting = ((way, found[way]) for way in ways if found[way])
    unit = 1.0 if found[PLAIN] and found[PLAIN]["cycles"] is None else 1e6
    return [(way, f["temporaries"] / 2**20, cost(f) / unit) for way, f in fitting]


def panel(axes: Axes, name: str, found: dict[str, Any], colours: dict[str, str]) -> None:
    """Draw one family: policies as squares with their names, plans as a line from fastest to least memory."""
    ours, theirs = points(found, LIMITS), points(found, (PLAIN, *POLICIES))
    axes.plot([x for _, x, _ in ours], [y for *_, y in ours], "o-", color=colours["ours"], label="plans")
    squares = {"marker": "s", "linestyle": "", "color": colours["theirs"], "label": "JAX's own"}
    axes.plot([x for _, x, _ in theirs], [y for *_, y in theirs], **squares)
    note = functools.partial(axes.annotate, textcoords="offset points", fontsize=8)
    first = {x: (way, x, y) for way, x, y in reversed(theirs)}  # of policies that save the same
    for way, *place in first.values():
        note(SHORT.get(way, way), place, xytext=(0, 7), ha="center")
    (fastest, *at_fastest), *_, (least, *at_least) = ours
    note(fastest.removeprefix("plan, "), at_fastest, xytext=(0, -14), ha="center")
    note(least.removeprefix("plan, "), at_least, xytext=(-7, -3), ha="right")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set(title=name, xlabel="temporaries, MiB")
    axes.margins(0.25, 0.2)


def draw_families(results: dict[str, Any], target: str) -> list[Path]:
    """Draw the families that are shown; return the files."""
    names = [name for name in SHOWN if name in results]

    def fill(panels: Sequence[Axes], colours: dict[str, str]) -> None:
        for axes, name in zip(panels, names, strict=True):
            panel(axes, name, results[name], colours)
        estimated = any(found and found["cycles"] for found in results[names[0]].values())
        panels[0].set_ylabel("estimated cycles, millions" if estimated else "time / plain autodiff")
        panels[0].legend()

    return draw(f"frontier_{target}", len(names), fill)


def main() -> None:
    """Draw both figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--target", help="v5e, h100, ...; default: the machine here")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    flags = parser.parse_args()
    device = records.device_name(flags.target)
    results = records.read(device, f"families_{flags.dtype}")
    if not results:
        raise SystemExit("nothing is measured yet: run experiments.families.rivals with the same flags first")
    for file in draw_families(results, device):
        print(file)


if __name__ == "__main__":
    main()
