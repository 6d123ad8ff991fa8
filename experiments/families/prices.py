"""Does the planner know what plans take? Its prices against estimated cycles, or against the clock.

    python -m experiments.families.prices --target v5e
    python -m experiments.families.prices --only RevNet

Claim: of two plans the one to which the planner gives more time takes more time. Some plans are made for the
target, some as for a CPU, where to save a value takes no time, and one saves all, as plain autodiff does.
Expected: the rank correlation (Spearman's) between the time that the planner gives to a plan and the cycles
that the compiler of the target estimates: 0.78 in the median of T5, LLaMA, ResNet and leapfrog on v5e. With
no target it is the time on the machine here, with all plans in turns.
Cost: 3 to 10 minutes for each family and target on 2 cores. What is in experiments/results/DEVICE already, in
prices_DTYPE.json, is skipped.
"""

import contextlib
import functools
import itertools
import math
import statistics
from typing import Any

import jax
from scipy.stats import spearmanr

import bwsk_jax
from bwsk_jax.engine.program.platform import traced_for
from bwsk_jax.targets import Target, compile_for, find_target
from bwsk_jax.targets.program import aimed
from experiments.families import FAMILIES
from experiments.families.clock import timed
from experiments.families.measure import abstract, arguments, gradient
from experiments.families.runner import run
from experiments.families.stack import Size, Stack

LIMITS = (0.0, 0.01, 0.03, 0.1, 0.2, math.inf)


def plans_of(stack: Stack, target: Target) -> list[bwsk_jax.Plan]:
    """Return plans of one layer that differ, each with the prices of the target."""
    found: dict[tuple, bwsk_jax.Plan] = {}

    def scan(body, init, xs):
        for limit, invert in itertools.product(LIMITS, (False, True)):
            how = functools.partial(bwsk_jax.plan_scan, body, init, xs, max_overhead=limit, invert=invert)
            with traced_for("cpu"):
                other = how().portable
            with target.tracing():
                made = how()
            found.setdefault((made.saved, made.steps), made)
            with contextlib.suppress(bwsk_jax.PlanError):  # it hands on another part of the carry
                same = other.on(*(each.problem for each in found.values()))
                found.setdefault((same.saved, same.steps), same)
        return jax.lax.scan(body, init, xs)

    with target.tracing():
        jax.jit(gradient(stack, scan)).trace(*aimed(arguments(stack), target))
    return list(found.values())


def measured(name: str, dtype: Any, size: Size, target: str | None, rounds: int) -> list[list[float]]:
    """Return for each plan of a family what is predicted and what it takes.

    The former is in forward and backward passes, the latter in cycles or in units of the first plan's time.
    """
    stack = abstract(FAMILIES[name], dtype, size)
    plans = plans_of(stack, find_target(target))
    scans = {str(k): functools.partial(bwsk_jax.reversible_scan, plan=made) for k, made in enumerate(plans)}
    if target is None:
        clock = timed(FAMILIES[name], dtype, size, scans, rounds)
        taken = [figures["time"] for figures in clock.values()]
    else:
        compiled = (compile_for(gradient(stack, s), *arguments(stack), target=target) for s in scans.values())
        taken = [float(program.cycles or math.nan) for program in compiled]
    return [[made.time, found] for made, found in zip(plans, taken, strict=True)]


def correlation(pairs: list[list[float]]) -> float:
    """Return Spearman's rank correlation of what is predicted and what is taken."""
    predicted, taken = zip(*pairs, strict=True)
    return float(spearmanr(predicted, taken).statistic)


def table(results: dict[str, list[list[float]]]) -> str:
    """Return the correlation of each family in Markdown, and their median."""
    found = {name: correlation(pairs) for name, pairs in results.items()}
    rows = [f"| {name} | {len(results[name])} | {value:.2f} |" for name, value in found.items()]
    median = f"| median | | {statistics.median(found.values()):.2f} |"
    return "\n".join(["| family | plans | rank correlation |", "|---|---|---|", *rows, median])


def main() -> None:
    """Measure what the file does not hold yet, then print the table."""
    run(__doc__, "prices", measured, table)


if __name__ == "__main__":
    main()
