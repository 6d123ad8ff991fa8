"""What the inverses of several equations recover together, from what leaves them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from bwsk_jax.classification.equations import Entry
from bwsk_jax.classification.erasure import REFERENCE_ERASES
from bwsk_jax.classification.values import Facts, Standing
from bwsk_jax.engine.program.types import size

__all__ = ["leaving", "preserves", "reference_preserves", "way_back"]

SMALL = 0.5
"""Side information that is no larger than this, as a fraction of what it helps to recover, is small."""


def leaving(entries: Sequence[Entry], facts: Facts) -> list[int]:
    """What is made by the entries and read elsewhere."""
    inside = Counter(v for entry in entries for v in entry.equation.reads)
    made = dict.fromkeys(v for entry in entries for v in entry.equation.outputs)
    return [v for v in made if facts.readers[v] > inside[v]]


def way_back(run: Sequence[Entry], facts: Facts) -> tuple[list[int], list[int]]:
    """What the inverses of a run recover from what leaves it, and what else that takes from outside it."""
    comes_from: dict[int, set[int]] = {}
    for entry in run:
        read = set().union(*(comes_from.get(v, {v}) for v in entry.equation.reads))
        comes_from.update(dict.fromkeys(entry.equation.outputs, read))
    known, side, recovered = set(leaving(run, facts)), {}, {}
    for entry in reversed(run):
        equation, claim = entry.equation, entry.claim
        if claim.inverse is None or not known.issuperset(equation.outputs):
            continue
        target, given = equation.inputs[claim.inverse.operand], claim.given(equation)
        computes_it = comes_from.get(target, {target}).intersection(given)
        if target in known or computes_it or any(v in comes_from and v not in known for v in given):
            continue
        side.update(dict.fromkeys(v for v in given if v not in known))
        known.update((target, *given))
        recovered[target] = None
    return [v for v in recovered if v not in side], list(side)


def preserves(group: Sequence[Entry], facts: Facts) -> bool:
    """Whether a followed input of the module comes back from its outputs and what is at hand or small."""
    made = {v for entry in group for v in entry.equation.outputs}
    inputs = {v: None for entry in group for v in entry.equation.reads if v not in made}
    highest = max(map(facts.standing, inputs), default=Standing.KNOWN)
    if highest is Standing.KNOWN:
        return True
    followed = [v for v in inputs if facts.standing(v) is highest]
    at_hand = {v for v in made if facts.standing(v) < Standing.DATA}.union(inputs)
    return any(_comes_back(v, group, facts, at_hand) for v in followed)


def _comes_back(target: int, group: Sequence[Entry], facts: Facts, at_hand: set[int]) -> bool:
    """Whether `target` can be solved for from what leaves the module, what is at hand, and little else."""
    sources = _smallest_sources(group, facts, at_hand - {target})
    known, side = set(leaving(group, facts)), set()
    for entry in reversed(group):
        equation, claim = entry.equation, entry.claim
        if claim.inverse is not None and known.issuperset(equation.outputs):
            known.add(equation.inputs[claim.inverse.operand])
            side.update(*(sources(v) for v in claim.given(equation) if v not in known))
    return target in known and sum(facts.origin_bytes[v] for v in side) <= SMALL * facts.origin_bytes[target]


def _smallest_sources(group: Sequence[Entry], facts: Facts, at_hand: set[int]) -> Callable[[int], set[int]]:
    """Of a value: itself, or what it can be computed from if that is smaller; nothing if it is at hand."""
    weight = lambda values: sum(facts.origin_bytes[v] for v in values)
    sources: dict[int, set[int]] = {v: set() for v in at_hand}
    for entry in group:
        from_inputs = set().union(*(sources.get(v, {v}) for v in entry.equation.reads))
        for v in entry.equation.outputs:
            sources.setdefault(v, min({v}, from_inputs, key=weight))
    return lambda v: sources.get(v, {v})


def reference_preserves(group: Sequence[Entry], facts: Facts) -> bool:
    """Whether the module neither drops out nor is an activation."""
    largest_of = lambda entry: max(map(size, entry.equation.out_avals), default=0)
    largest = max(map(largest_of, group))
    needs_size = lambda entry: REFERENCE_ERASES[entry.equation.primitive]
    erasing = [entry for entry in group if entry.claim.kind == "K"]
    return not any(largest_of(entry) == largest or not needs_size(entry) for entry in erasing)
