"""S-phases: the runs of equations between two that erase, and what their inverses recover together."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from bwsk_jax.classification.bodies import Body
from bwsk_jax.classification.equations import ClassifiedEquation, leaving
from bwsk_jax.classification.report import Phase
from bwsk_jax.classification.values import ValueInfo
from bwsk_jax.engine.program.vjp import kept_by_autodiff

__all__ = ["phases"]


def phases(body: Body, equations: Sequence[ClassifiedEquation]) -> Iterator[Phase]:
    """The S-phases of a body, in order."""
    groups = itertools.groupby(equations, lambda classified: classified.verdict.preserves)
    runs = [list(run) for preserving, run in groups if preserving]
    if not runs:
        return
    info = body.info
    residuals = kept_by_autodiff(body.differentiated, body.program)
    for run in runs:
        made = {v: None for classified in run for v in classified.equation.outputs}
        entering = {v: None for classified in run for v in classified.equation.reads if v not in made}
        recovered, side = _recoverable(run, info)
        back = [v for v in recovered if residuals is not None and v in residuals]
        yield Phase(
            first=run[0].line,
            last=run[-1].line,
            lines=tuple(classified.line for classified in run),
            bytes_in=info.bytes(entering),
            bytes_out=info.bytes(leaving(run, info)),
            gives_back=None if residuals is None else tuple(map(body.label, back)),
            bytes_given_back=info.bytes(back),
            given=tuple(map(body.label, side)),
            repeats=body.repeats,
        )


def _recoverable(run: Sequence[ClassifiedEquation], info: ValueInfo) -> tuple[list[int], list[int]]:
    """The values that the inverses of a run recover from what leaves it, and the side values they read.

    The run is walked backwards. An inverse is used if the results of its equation are known by then and the
    values it reads enter the run from outside or are known as well. It is of no use if it reads what its
    target was computed from, since the target could be replayed from that.
    """
    known = set(leaving(run, info))
    computed_from = _computed_from(run)
    side: dict[int, None] = {}
    recovered: dict[int, None] = {}
    for classified in reversed(run):
        target, given = classified.target, classified.given
        if target is None or target in known or not known.issuperset(classified.equation.outputs):
            continue
        reads_its_origin = computed_from.get(target, {target}).intersection(given)
        misses_something = any(v in computed_from and v not in known for v in given)
        if reads_its_origin or misses_something:
            continue
        side.update(dict.fromkeys(v for v in given if v not in known))
        known.update((target, *given))
        recovered[target] = None
    return [v for v in recovered if v not in side], list(side)


def _computed_from(run: Sequence[ClassifiedEquation]) -> dict[int, set[int]]:
    """Maps each value that is made in a run to the values from outside that it was computed from."""
    sources: dict[int, set[int]] = {}
    for classified in run:
        read = set().union(*(sources.get(v, {v}) for v in classified.equation.reads))
        sources.update(dict.fromkeys(classified.equation.outputs, read))
    return sources
