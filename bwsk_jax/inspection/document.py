"""What the inspector finds out about a subject, as JSON for other programs.

The table lists the keys of schema 1. A key that is renamed, removed or given another meaning gives the schema
a new number.

=============  ============================================================================================
schema         1
subject        what was looked at, in words
strict         the strict `bwsk_jax.Report`, as its `to_dict` gives it; it has a schema number of its own
reference      the same by the reference taxonomy
differences    the leaf modules on which they disagree: module, repeats, strict, reference, primitive, why
plan           with `--plan` or `--diff`, else null: unit, saved_bytes, residual_bytes, overhead,
               fallback_overhead, inverted, gap, values and phases. The list of values is in the order of the
               backward pass; each has the keys of `value_sources.ValueSource`: value, type, bytes, how
               ("saved", "inverted", "replayed"), grade, equation, primitive, module, source, residual. Each
               of the S-phases has its first and last equation, and the list of values inverted in it
residuals      with `--diff`, else null: each residual of plain autodiff, with the keys of a value
=============  ============================================================================================

Bytes, FLOPs and overheads of a plan are per call, or per iteration of the scan over layers.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from bwsk_jax import Plan, Report
from bwsk_jax.inspection.differences import differences
from bwsk_jax.inspection.value_sources import ValueSource, residual_sources, value_sources
from bwsk_jax.inspection.walks import walks

__all__ = ["SCHEMA", "document"]

SCHEMA = 1


def document(
    subject: str, unit: str, strict: Report, reference: Report, plan: Plan | None, *, diff: bool
) -> dict[str, Any]:
    """Return the document as plain lists and dictionaries; `diff` asks for the residuals of the plan."""
    return {
        "schema": SCHEMA,
        "subject": subject,
        "strict": strict.to_dict(),
        "reference": reference.to_dict(),
        "differences": list(map(dataclasses.asdict, differences(strict, reference))),
        "plan": None if plan is None else _plan(plan, unit),
        "residuals": None if plan is None or not diff else _listed(residual_sources(plan)),
    }


def _plan(plan: Plan, unit: str) -> dict[str, Any]:
    return {
        "unit": unit,
        "saved_bytes": plan.saved_bytes,
        "residual_bytes": plan.residual_bytes,
        "overhead": plan.overhead,
        "fallback_overhead": plan.fallback_overhead,
        "inverted": plan.inverted,
        "gap": plan.gap,
        "values": _listed(value_sources(plan)),
        "phases": [
            {"first": walk.first, "last": walk.last, "inverted": [source.value for source in walk.inverted]}
            for walk in walks(plan)
        ],
    }


def _listed(sources: list[ValueSource]) -> list[dict[str, Any]]:
    return list(map(dataclasses.asdict, sources))
