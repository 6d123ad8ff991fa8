"""Plans of known functions, in short: what a change that is to leave all plans alone has to reproduce.

`python -m tests.support.goldens` records them anew, with the installed JAX.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import bwsk_jax
from experiments.families import FAMILIES, Size, measure
from tests.support.scan_bodies import CASES

FILE = Path(__file__).parents[1] / "engine" / "goldens.json"
SIZE = Size(batch=4, time=64, width=64, layers=8)
LIMITS = {"default": {}, "least": {"max_overhead": math.inf}, "replaying": {"invert": False}}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def planners() -> dict[str, Callable[..., bwsk_jax.Plan]]:
    """Name -> the function that plans it under the options of `plan_scan`."""
    found: dict[str, Callable] = {}
    for name in FAMILIES:
        for dtype in DTYPES:
            found[f"{name}, {dtype}"] = lambda name=name, dtype=dtype, **limit: measure.plan(
                measure.abstract(FAMILIES[name], DTYPES[dtype], SIZE), **limit
            )
    for name, case in CASES.items():
        found[f"case: {name}"] = lambda case=case, **limit: bwsk_jax.plan_scan(*case, **limit)
    return found


def digest(plan: bwsk_jax.Plan) -> dict[str, Any]:
    """What a plan saves and does: a readable part, and a hash of all of it."""
    program = plan.problem.program
    step = lambda s: f"{s.equation} {program.equations[s.equation].primitive} {s.operand}"
    fallback = None if plan.fallback is None else list(map(step, plan.fallback))
    whole = [
        [f"{v} {program.avals[v].str_short()}" for v in plan.saved],
        list(map(step, plan.steps)),
        fallback,
    ]
    return {
        "saved_bytes": plan.saved_bytes,
        "saved": len(plan.saved),
        "steps": len(plan.steps),
        "inverted": plan.inverted,
        "fallback": None if fallback is None else len(fallback),
        "gap": plan.gap,
        "hash": hashlib.sha256(json.dumps(whole).encode()).hexdigest()[:16],
    }


def recorded() -> dict[str, Any]:
    """What the file holds."""
    return json.loads(FILE.read_text("utf-8"))


def main() -> None:
    """Write the file."""
    goldens: dict[str, Any] = {"jax": jax.__version__}
    for name, plan in planners().items():
        goldens[name] = {limit: digest(plan(**options)) for limit, options in LIMITS.items()}
        print(name, flush=True)
    text = json.dumps(goldens)
    FILE.write_text(text.replace("}}, ", "}},\n").replace("}, ", "},\n  ") + "\n", "utf-8")


if __name__ == "__main__":
    main()
