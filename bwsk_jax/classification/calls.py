"""Tell modules apart that share a name: layers of a list, which one line calls in turn."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from bwsk_jax.classification.equations import Entry
from bwsk_jax.classification.values import Facts, Standing

__all__ = ["apart"]


def apart(entries: Sequence[Entry], facts: Facts) -> list[list[Entry]]:
    """The entries of each module.

    A call begins where the place of the first equation comes again. It is another module's if it reads
    parameters that no call before it did; without any it counts as one more call.
    """
    modules: list[tuple[set[int], list[Entry]]] = []
    for call in _calls(entries):
        parameters = _parameters(call, facts)
        home = next((found for found in modules if parameters <= found[0]), None)
        if home is None:
            modules.append((parameters, call))
        else:
            home[1].extend(call)
    return [found for _, found in modules]


def _calls(entries: Sequence[Entry]) -> list[list[Entry]]:
    calls: list[list[Entry]] = []
    beginning = _place(entries[0])
    for entry in entries:
        if _place(entry) == beginning:
            calls.append([])
        calls[-1].append(entry)
    return calls


def _place(entry: Entry) -> Hashable:
    equation = entry.equation
    return equation.primitive, *(source.traceback for source in (*equation.calls, equation.source))


def _parameters(call: Sequence[Entry], facts: Facts) -> set[int]:
    read = {v for entry in call for v in entry.equation.reads if facts.standing(v) < Standing.DATA}
    return read.difference(v for entry in call for v in entry.equation.outputs)
