"""What is kept between the forward and the backward pass: the saved values of a plan, and what tells whether
its inverses can be trusted. Booleans are kept as bits, and floats that a compiler would widen as integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from bwsk_jax.engine.execute.guard import Evidence, evidence, evidence_reads
from bwsk_jax.engine.execute.steps import Environment
from bwsk_jax.engine.plan.plan import Plan
from bwsk_jax.engine.program.bits import is_packed, pack, unpack
from bwsk_jax.engine.program.narrow import as_integers, from_integers, is_widened

__all__ = ["Kept", "keep", "kept_values", "reads_to_keep", "without_floats"]


class Kept(NamedTuple):
    """The saved values of a plan, in its order, as they are kept.

    Attributes:
      arrays: what is kept.
      floats: by their places, those that are kept as integers. Nothing reads them but a derivative of the
        backward pass. So they take no memory where one compiled program has both passes.
    """

    arrays: list[Any]
    floats: dict[int, Any]


def reads_to_keep(plan: Plan) -> list[int]:
    """The values that `keep` reads."""
    return [*plan.saved, *evidence_reads(plan)]


def keep(plan: Plan, values: Sequence[Any]) -> tuple[Kept, list[Evidence]]:
    """The saved values of a plan as they are kept, and the evidence for its guard."""
    avals, count = plan.problem.program.avals, len(plan.saved)
    kept = Kept([], {})
    for place, (v, x) in enumerate(zip(plan.saved, values[:count], strict=True)):
        if is_packed(avals[v]):
            kept.arrays.append(pack(x))
        elif is_widened(avals[v]):
            kept.arrays.append(as_integers(x))
            kept.floats[place] = x
        else:
            kept.arrays.append(x)
    return kept, evidence(plan, values[count:])


def without_floats(results: Any) -> Any:
    """The results of a forward pass, for a backward pass that nothing differentiates."""
    is_kept = lambda x: isinstance(x, Kept)
    return jax.tree.map(lambda x: x._replace(floats={}) if is_kept(x) else x, results, is_leaf=is_kept)


def kept_values(plan: Plan, kept: Kept) -> Environment:
    """The saved values again, by their numbers, from what `keep` gave."""
    avals, found = plan.problem.program.avals, {}
    for place, (v, x) in enumerate(zip(plan.saved, kept.arrays, strict=True)):
        if is_packed(avals[v]):
            found[v] = unpack(x, avals[v])
        elif x.dtype != avals[v].dtype:
            found[v] = from_integers(x, avals[v], kept.floats.get(place))
        else:
            found[v] = x
    return found
