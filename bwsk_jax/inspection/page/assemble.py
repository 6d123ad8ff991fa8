"""What the page says, filled into its template."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from bwsk_jax import Plan, Report
from bwsk_jax.classification.report import Line, Phase
from bwsk_jax.inspection.differences import explanation
from bwsk_jax.inspection.page.chart import chart
from bwsk_jax.inspection.page.graph import graphs
from bwsk_jax.inspection.text import WALK_HEAD, binary, decimal, place, plan_line, walk_rows
from bwsk_jax.inspection.value_sources import residual_sources, total_bytes
from bwsk_jax.inspection.walks import walks

__all__ = ["page"]

KINDS = ("S", "~S", "K")
LEGEND = (
    ('<circle class="dot" cx="8" cy="8" r="5" fill="var(--s)"/>', "with inverses"),
    (
        '<rect x="3" y="3" width="10" height="10" fill="none" stroke="var(--k)" stroke-width="2"/>',
        "replaying alone",
    ),
    ('<circle cx="8" cy="8" r="6.5" fill="none" stroke="var(--mark)" stroke-width="3"/>', "this plan"),
    ('<line class="plain" x1="0" x2="16" y1="8" y2="8"/>', "what plain autodiff keeps"),
)


def page(
    subject: str,
    unit: str,
    strict: Report,
    reference: Report,
    plan: Plan,
    inverting: Sequence[Plan],
    replaying: Sequence[Plan],
) -> str:
    """Return the page; `inverting` and `replaying` are the frontiers with and without inverses."""
    template = Template(files("bwsk_jax.inspection.page").joinpath("page.html").read_text("utf-8"))
    residuals = residual_sources(plan)
    return template.substitute(
        title=escape(subject),
        unit=escape(unit),
        ratios=_ratios(strict) + _ratios(reference),
        explanation=escape(explanation(strict, reference)),
        plan=escape(f"This plan {plan_line(plan)}."),
        legend="".join(
            f'<span><svg width="16" height="16" aria-hidden="true">{mark}</svg>{name}</span>'
            for mark, name in LEGEND
        ),
        chart=chart(plan, inverting, replaying),
        plans=_plans(inverting, replaying),
        totals=escape(", ".join(f"{how} {binary(count)}" for how, count in total_bytes(residuals).items())),
        residuals=_table(
            ("value", "type", "bytes", "how", "equation", "grade", "module", "source"),
            (
                (r.value, r.type, f"{r.bytes:,}", r.how, r.primitive, r.grade, r.module, place(r.source))
                for r in residuals
            ),
            style="left",
            numbers={2},
        ),
        walks=_table(WALK_HEAD, walk_rows(walks(plan)), style="left", numbers={1}),
        graphs=graphs(strict),
        lines=json.dumps(_details(strict, reference)).replace("<", "\\u003c"),
    )


def _table(
    head: Iterable[Any], rows: Iterable[Iterable[Any]], style: str = "", numbers: Iterable = ()
) -> str:
    def cells(tag: str, row: Iterable[Any]) -> str:
        style = lambda k: ' class="number"' if k in numbers else ""
        return "".join(f"<{tag}{style(k)}>{escape(str(cell))}</{tag}>" for k, cell in enumerate(row))

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<table class="{style}"><thead><tr>{cells("th", head)}</tr></thead><tbody>{body}</tbody></table>'


def _ratios(report: Report) -> str:
    rows = [(by, *(f"{share[kind]:.1%}" for kind in KINDS)) for by, share in report.ratios.items()]
    leaves = report.leaf_modules
    counts = [("leaf modules", leaves["S"], "", leaves["K"])] if sum(leaves.values()) else []
    return f"<div>{_table((report.taxonomy, *KINDS), [*rows, *counts])}</div>"


def _plans(inverting: Sequence[Plan], replaying: Sequence[Plan]) -> str:
    named = [("with inverses", p) for p in inverting] + [("replaying alone", p) for p in replaying]
    rows = (
        (
            name,
            f"{p.saved_bytes:,}",
            f"{p.overhead:.2%}",
            "" if p.fallback is None else f"{p.fallback_overhead:.2%}",
            p.inverted,
        )
        for name, p in named
    )
    return _table(("", "bytes saved", "overhead", "where a guard refuses", "inverse steps"), rows)


def _details(strict: Report, reference: Report) -> dict[int, dict[str, Any]]:
    """Return what the page says of each line, by the number of the line."""
    phase_of = {n: phase for phase in strict.phases for n in phase.lines}
    return {
        line.number: {
            "title": f"{line.number}: {line.primitive}",
            "details": [
                [name, value]
                for name, value in _said(line, reference.lines[line.number], phase_of.get(line.number))
                if value
            ],
        }
        for line in strict.lines
    }


def _said(line: Line, theirs: Line, phase: Phase | None) -> Iterable[tuple[str, str]]:
    yield "strict", f"{line.kind}: {line.why}"
    yield "reference", theirs.kind
    yield "if", line.condition
    yield "grade", line.grade
    yield "amplifies", f"{line.amplification:g}" if line.amplification != 1 else ""
    yield "given", f"{', '.join(line.given)} ({binary(line.side_bytes)})" if line.given else ""
    yield "reads", f"{', '.join(line.inputs)} ({binary(line.bytes_in)})"
    yield "result", f"{' '.join(line.types)} ({binary(line.bytes_out)})"
    yield "values", ", ".join(line.outputs)
    yield "FLOPs", decimal(line.flops)
    yield "evaluated", f"{line.repeats} times" if line.repeats > 1 else ""
    yield "module", line.module
    yield "source", line.source
    if phase is not None:
        yield "S-phase", f"lines {phase.first} to {phase.last}"
        yield "enters", binary(phase.bytes_in)
        yield "leaves", binary(phase.bytes_out)
        yield "gives back", _given_back(phase)


def _given_back(phase: Phase) -> str:
    if phase.gives_back is None:
        return "nothing: there is no derivative"
    if not phase.gives_back:
        return "no residual of autodiff"
    given = f", given {', '.join(phase.given)}" if phase.given else ""
    return f"residuals {', '.join(phase.gives_back)} ({binary(phase.bytes_given_back)}){given}"
