"""What is kept between the forward and the backward pass: the saved values of a plan, booleans as bits, and
what tells whether its inverses can be trusted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bwsk_jax.engine.execute.guard import Evidence, evidence, evidence_reads
from bwsk_jax.engine.execute.steps import Environment
from bwsk_jax.engine.plan.plan import Plan
from bwsk_jax.engine.program.bits import is_packed, pack, unpack

__all__ = ["keep", "kept_values", "reads_to_keep"]


def reads_to_keep(plan: Plan) -> list[int]:
    """The values that `keep` reads."""
    return [*plan.saved, *evidence_reads(plan)]


def keep(plan: Plan, values: Sequence[Any]) -> tuple[list[Any], list[Evidence]]:
    """The saved values of a plan, in its order, as they are kept, and the evidence for its guard."""
    avals, count = plan.problem.program.avals, len(plan.saved)
    saved = zip(plan.saved, values[:count], strict=True)
    return [pack(x) if is_packed(avals[v]) else x for v, x in saved], evidence(plan, values[count:])


def kept_values(plan: Plan, arrays: Sequence[Any]) -> Environment:
    """The saved values again, by their numbers, from what `keep` gave."""
    avals = plan.problem.program.avals
    return {
        v: unpack(x, avals[v]) if is_packed(avals[v]) else x for v, x in zip(plan.saved, arrays, strict=True)
    }
