"""What is found out about a subject, as JSON for other programs.

The keys of schema 1. No key is renamed, removed or given another meaning without a new number.

=============  ============================================================================================
schema         1
subject        what was looked at, in words
strict         the strict `bwsk_jax.Report`, as its `to_dict` gives it; it has a schema number of its own
reference      the same by the reference taxonomy
differences    leaf modules on which they disagree: module, repeats, strict, reference, primitive, why
plan           with `--plan` or `--diff`, else null: unit, saved_bytes, residual_bytes, overhead,
               fallback_overhead, inverted, gap and values, which lists in the order of the backward pass:
               value, type, bytes, how ("saved", "inverted", "replayed"), grade, primitive, module, source,
               residual (whether plain autodiff would keep it)
residuals      with `--diff`, else null: what becomes of each residual of plain autodiff, listed as `values`
=============  ============================================================================================

Bytes, FLOPs and overheads of a plan are per call, or per iteration of the scan over layers.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from bwsk_jax import Plan, Report
from bwsk_jax.inspection.differences import differences
from bwsk_jax.inspection.fates import Fate, fates, residual_fates

__all__ = ["SCHEMA", "document"]

SCHEMA = 1


def document(
    subject: str, unit: str, strict: Report, reference: Report, plan: Plan | None, *, diff: bool
) -> dict[str, Any]:
    """The document, as plain lists and dictionaries."""
    return {
        "schema": SCHEMA,
        "subject": subject,
        "strict": strict.to_dict(),
        "reference": reference.to_dict(),
        "differences": list(map(dataclasses.asdict, differences(strict, reference))),
        "plan": None if plan is None else _plan(plan, unit),
        "residuals": _listed(residual_fates(plan)) if diff else None,
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
        "values": _listed(fates(plan)),
    }


def _listed(found: list[Fate]) -> list[dict[str, Any]]:
    return list(map(dataclasses.asdict, found))
