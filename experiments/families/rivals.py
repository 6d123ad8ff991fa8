"""What the compiler of a target makes of 24 families of models: our plans against JAX's own policies.

    python -m experiments.families.rivals --target v5e

Claim: whatever a stock policy of `jax.checkpoint` takes, some plan takes no more cycles and no more memory.
Expected: the table that the program prints of experiments/results/v5e/families_bfloat16.json.
Cost: a few hours on 2 cores and 4 GiB. It only compiles, and skips what the file holds already.
It needs the compiler of the target, which `bwsk_jax.compile_for` tells how to install.
"""

import argparse
import functools
import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp

import bwsk_jax
from bwsk_jax.targets import DoesNotFitError, compile_for
from bwsk_jax.targets.fit import STOCK
from experiments.families import FAMILIES, Size
from experiments.families.measure import abstract, arguments, gradient, plan
from experiments.families.stack import Stack

RESULTS = Path(__file__).parents[1] / "results"
SIZE = Size(batch=32, time=512, width=512, layers=24)
RECURRENT = Size(batch=2048, time=512, width=512, layers=24)
"""For cells, which keep little of each of many steps."""
PLAIN, *POLICIES = STOCK
LIMITS = {"plan, 3%": 0.03, "plan, 10%": 0.1, "plan, 20%": 0.2, "plan, least": math.inf}

Figures = dict[str, Any] | None
"""Temporaries in bytes and estimated cycles; None where the target has no room for the program."""


def measured(name: str, dtype: Any, size: Size, target: str) -> dict[str, Figures]:
    """Return the figures of plain autodiff, each policy and each plan, with inverses and without."""
    stack = abstract(FAMILIES[name], dtype, size)
    found = {name: _compiled(stack, {"plan": policy}, target) for name, policy in STOCK.items()}
    by_plan: dict[str, Figures] = {}
    for invert in (True, False):
        for way, limit in LIMITS.items():
            options = {"max_overhead": limit, "invert": invert}
            same = plan(stack, **options).to_json()
            if same not in by_plan:
                by_plan[same] = _compiled(stack, options, target)
            found[way if invert else f"{way}, without inverses"] = by_plan[same]
    return found


def _compiled(stack: Stack, options: dict[str, Any], target: str) -> Figures:
    scan: Callable = functools.partial(bwsk_jax.reversible_scan, **options)
    try:
        program = compile_for(gradient(stack, scan), *arguments(stack), target=target)
    except DoesNotFitError:
        return None
    return {"temporaries": program.temporary_bytes, "cycles": program.cycles}


def ratio(found: dict[str, Figures], policy: str) -> float:
    """Return the temporaries of the plan of least memory that takes no more cycles than the policy, in units
    of the policy's; infinite if there is no such plan, 0 if the policy does not fit.
    """
    theirs = found[policy]
    if theirs is None:
        return 0.0
    plans = (figures for way, figures in found.items() if way in LIMITS and figures is not None)
    rivals = [ours["temporaries"] for ours in plans if ours["cycles"] <= theirs["cycles"]]
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
    """Compile what the file does not hold yet, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--target", default="v5e")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--only", default="", help="families whose names contain this")
    flags = parser.parse_args()
    path = RESULTS / flags.target / f"families_{flags.dtype}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    results = json.loads(path.read_text()) if path.exists() else {}
    for name in FAMILIES:
        if name not in results and flags.only in name:
            size = RECURRENT if "GRU" in name else SIZE
            results[name] = measured(name, getattr(jnp, flags.dtype), size, flags.target)
            path.write_text(json.dumps(results, indent=1) + "\n")
            print(name, results[name], flush=True)
    print(table(results))


if __name__ == "__main__":
    main()
