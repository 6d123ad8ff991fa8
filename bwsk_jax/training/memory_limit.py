"""From the memory that a whole step may take to the bytes that a layer may save: `--fit` to `--max-bytes`."""

import bisect
import dataclasses
import sys
from typing import TypeVar

import bwsk_jax
from bwsk_jax.training.byte_sizes import parse_bytes
from bwsk_jax.training.step_setup import StepSetup

RESOLUTION = 0.05
"""Share of the saved bytes below which no better plan is looked for."""

AnySetup = TypeVar("AnySetup", bound=StepSetup)


class FitError(ValueError):
    """A step that takes more memory than there is under every plan; the message names the least."""


def fit_memory(setup: AnySetup) -> AnySetup:
    """Return `setup` with `max_bytes` as `--fit` demands; as it is without `--fit`, or with `max_bytes`.

    It is the plan of least recomputation whose step, compiled, keeps to the limit, up to `RESOLUTION`.
    Bisection finds it, first on the frontier, then between its neighbours there, because a plan that saves
    more has a higher peak: a few compilations, each of them told on standard error.

    Raises `FitError`.
    """
    if setup.options.fit is None or setup.options.max_bytes is not None:
        return setup
    limit = parse_bytes(setup.options.fit)
    peaks = []

    def too_large(plan: bwsk_jax.Plan) -> bool:
        peak = limited(setup, plan.saved_bytes).peak_bytes()
        peaks.append(peak)
        print(
            f"--fit {setup.options.fit}: {plan.saved_bytes:,} bytes saved per layer, {plan.overhead:.1%} "
            f"recomputed: {peak / 1e6:,.1f} MB, {'too much' if peak > limit else 'fits'}",
            file=sys.stderr,
            flush=True,
        )
        return peak > limit

    plans = bwsk_jax.frontier(*setup.encoder_layer, length=setup.config.num_hidden_layers)
    fitting = bisect.bisect_left(plans, True, key=too_large)
    if fitting == 0:
        raise FitError(
            f"--fit {setup.options.fit} is {limit:,} bytes, and the step takes at least {min(peaks):,}: "
            "give more, or a smaller --batch-size or --seq-len"
        )
    if fitting == len(plans):
        return limited(setup, plans[-1].saved_bytes)
    best, low, high = plans[fitting - 1], plans[fitting - 1].saved_bytes, plans[fitting].saved_bytes
    while high - low > RESOLUTION * high:
        middle = (low + high) // 2
        plan = limited(setup, middle).plan
        if plan.saved_bytes <= best.saved_bytes:  # none saves more up to there
            low = middle
        elif too_large(plan):
            high = plan.saved_bytes
        else:
            best, low = plan, middle
    return limited(setup, best.saved_bytes)


def limited(setup: AnySetup, max_bytes: int) -> AnySetup:
    """Return `setup` with that limit on what a layer saves."""
    return dataclasses.replace(setup, options=dataclasses.replace(setup.options, max_bytes=max_bytes))
