"""Our plans against JAX's own policies, over 24 families of models: for a target, or on the machine here.

    python -m experiments.families.rivals --target v5e
    python -m experiments.families.rivals --only RevNet

Claim: whatever a stock policy of `jax.checkpoint` takes, some plan takes no more time and no more memory.
Time is what the compiler of a target estimates in cycles. Here it is measured, with all ways in turns.
Expected: the table that the program prints of experiments/results/DEVICE/families_DTYPE.json.
Cost: a few hours for v5e on 2 cores and 4 GiB; it only compiles. Here about 3 minutes for each family. What
the file holds already is skipped. `bwsk_jax.compile_for` tells how to install the compiler of a target.
"""

import functools
import math
import statistics
from collections.abc import Callable
from typing import Any

import bwsk_jax
from bwsk_jax.targets import DoesNotFitError, compile_for, find_target
from bwsk_jax.targets.fit import STOCK
from experiments.families import FAMILIES
from experiments.families.clock import timed
from experiments.families.measure import abstract, arguments, gradient, plan
from experiments.families.runner import run
from experiments.families.stack import Size, Stack

PLAIN, *POLICIES = STOCK
LIMITS = {
    "plan, fastest": 0.0,
    "plan, 3%": 0.03,
    "plan, 10%": 0.1,
    "plan, 20%": 0.2,
    "plan, least": math.inf,
}

Figures = dict[str, Any] | None
"""Temporaries in bytes, and estimated cycles or a time relative to plain autodiff's; None where the target
has no room for the program."""


def measured(name: str, dtype: Any, size: Size, target: str | None, rounds: int = 15) -> dict[str, Figures]:
    """Return the figures of plain autodiff, each policy and each plan, with inverses and without.

    Args:
      name, dtype, size: which family.
      target: what is compiled for; None measures on the machine here.
      rounds: how often each way is timed there.
    """
    stack = abstract(FAMILIES[name], dtype, size)
    with find_target(target).tracing():
        options, same = _ways(stack)
    scans = {way: functools.partial(bwsk_jax.reversible_scan, **how) for way, how in options.items()}
    if target is None:
        found: dict[str, Figures] = dict(timed(FAMILIES[name], dtype, size, scans, rounds))
    else:
        found = {way: _compiled(stack, scan, target) for way, scan in scans.items()}
    return {way: found[first] for way, first in same.items()}


def _ways(stack: Stack) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The options of the ways that differ from those before them, and for each way the first like it."""
    options: dict[str, dict[str, Any]] = {name: {"plan": policy} for name, policy in STOCK.items()}
    same = {name: name for name in options}
    by_plan: dict[str, str] = {}
    for invert in (True, False):
        for way, limit in LIMITS.items():
            name = way if invert else f"{way}, without inverses"
            how = {"max_overhead": limit, "invert": invert}
            same[name] = by_plan.setdefault(plan(stack, **how).to_json(), name)
            if same[name] == name:
                options[name] = how
    return options, same


def _compiled(stack: Stack, scan: Callable, target: str) -> Figures:
    try:
        program = compile_for(gradient(stack, scan), *arguments(stack), target=target)
    except DoesNotFitError:
        return None
    return {"temporaries": program.temporary_bytes, "cycles": program.cycles}


def cost(figures: dict[str, Any]) -> float:
    """Return the time of a way: cycles, or in units of plain autodiff's."""
    return figures["time"] if figures["cycles"] is None else figures["cycles"]


def ratio(found: dict[str, Figures], policy: str) -> float:
    """Return the temporaries of the plan of least memory that takes no more time than the policy, in units
    of the policy's; infinite if there is no such plan, 0 if the policy does not fit.
    """
    theirs = found[policy]
    if theirs is None:
        return 0.0
    plans = (figures for way, figures in found.items() if way in LIMITS and figures is not None)
    rivals = [ours["temporaries"] for ours in plans if cost(ours) <= cost(theirs)]
    return min(rivals, default=math.inf) / theirs["temporaries"]


def table(results: dict[str, dict[str, Figures]]) -> str:
    """Return the ratios of all families in Markdown, and their medians."""
    lines = [f"| family | plain, MiB | {' | '.join(POLICIES)} |", "|---" * (2 + len(POLICIES)) + "|"]
    for name, found in results.items():
        plain = found[PLAIN]
        size = "too much" if plain is None else f"{plain['temporaries'] / 2**20:,.0f}"
        ratios = (f"{ratio(found, policy):.2f}" for policy in POLICIES)
        lines.append(f"| {name} | {size} | {' | '.join(ratios)} |")
    medians = (statistics.median(ratio(found, p) for found in results.values()) for p in POLICIES)
    return "\n".join([*lines, f"| median | | {' | '.join(f'{median:.2f}' for median in medians)} |"])


def main() -> None:
    """Measure what the file does not hold yet, then print the table."""
    run(__doc__, "families", measured, table)


if __name__ == "__main__":
    main()
