"""What is kept between the forward and the backward pass: the saved values of a plan, booleans as bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bwsk_jax.engine.execute.steps import Environment
from bwsk_jax.engine.plan.plan import Plan
from bwsk_jax.engine.program.bits import is_packed, pack, unpack

__all__ = ["keep", "kept_values"]


def keep(plan: Plan, values: Sequence[Any]) -> list[Any]:
    """The saved values of a plan, in its order, as they are kept."""
    avals = plan.problem.program.avals
    return [pack(x) if is_packed(avals[v]) else x for v, x in zip(plan.saved, values, strict=True)]


def kept_values(plan: Plan, arrays: Sequence[Any]) -> Environment:
    """The saved values again, by their numbers, from what `keep` gave."""
    avals = plan.problem.program.avals
    return {
        v: unpack(x, avals[v]) if is_packed(avals[v]) else x for v, x in zip(plan.saved, arrays, strict=True)
    }
