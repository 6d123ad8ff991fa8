"""How much memory a step takes, and the plan whose step keeps within `--fit`."""

import bisect
import dataclasses
import math
import sys
from typing import TypeVar

import bwsk_jax
from bwsk_jax.processes import is_first
from bwsk_jax.targets import DoesNotFitError, FitError
from bwsk_jax.targets.fit import parse_bytes
from bwsk_jax.training.setup import StepSetup

RESOLUTION = 0.05
"""The search ends when the best plan is known up to this share of the bytes that it saves."""

AnySetup = TypeVar("AnySetup", bound=StepSetup)


def fit_memory(setup: AnySetup) -> AnySetup:
    """Return `setup` with the `max_bytes` with which its step keeps within `--fit`.

    Among the plans whose compiled step keeps within the limit, it takes the one of least overhead, up to
    `RESOLUTION`. A plan that saves more has a higher peak, so bisection finds it: first on the frontier, then
    between two neighbours there. That takes a few compilations; a line on standard error tells of each.

    Without `--fit`, or with `max_bytes` known already, `setup` stays as it is. Raises `FitError`.
    """
    if setup.flags.fit is None or setup.flags.max_bytes is not None:
        return setup
    limit = parse_bytes(setup.flags.fit)
    peaks = []

    def too_large(plan: bwsk_jax.Plan) -> bool:
        try:
            peak = _planned(setup, plan.saved_bytes).peak_bytes()
            size = f"{peak / 1e6:,.1f} MB, {'too much' if peak > limit else 'fits'}"
        except DoesNotFitError as fault:
            peak, size = math.inf, f"too much ({fault})"
        peaks.append(peak)
        if not is_first():
            return peak > limit
        print(
            f"--fit {setup.flags.fit}: {setup.per_device(plan.saved_bytes):,} bytes saved per layer, "
            f"{plan.overhead:.1%} overhead: {size}",
            file=sys.stderr,
            flush=True,
        )
        return peak > limit

    plans = setup.frontier()
    fitting = bisect.bisect_left(plans, True, key=too_large)
    if fitting == 0:
        least = min(peaks)
        takes = f"at least {least:,}" if least < math.inf else f"more than {setup.target.name} has"
        raise FitError(
            f"--fit {setup.flags.fit} is {limit:,} bytes, and the step takes {takes}: "
            "give more, or a smaller --batch-size or --seq-len"
        )
    if fitting == len(plans):
        return _planned(setup, plans[-1].saved_bytes)
    best, low, high = plans[fitting - 1], plans[fitting - 1].saved_bytes, plans[fitting].saved_bytes
    while high - low > RESOLUTION * high:
        middle = (low + high) // 2
        plan = _planned(setup, middle).plan
        assert plan is not None  # a variant that is not planned does not take --fit
        if plan.saved_bytes <= best.saved_bytes:  # no plan saves more than `best` up to there
            low = middle
        elif too_large(plan):
            high = plan.saved_bytes
        else:
            best, low = plan, middle
    return _planned(setup, best.saved_bytes)


def limited(setup: AnySetup, max_bytes: int) -> AnySetup:
    """Return `setup` with `max_bytes` as the limit on what an encoder layer saves on a device."""
    return dataclasses.replace(setup, flags=dataclasses.replace(setup.flags, max_bytes=max_bytes))


def _planned(setup: AnySetup, saved_bytes: int) -> AnySetup:
    """Return `setup` with the limit at which a plan may save `saved_bytes` for the windows of all devices."""
    return limited(setup, -(-saved_bytes // setup.placement.shards))
