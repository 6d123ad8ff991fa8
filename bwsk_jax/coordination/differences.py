"""Compare predicted meetings with compiled collectives, and name the reason of each difference."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from bwsk_jax.coordination.compiled import CompiledCollective
from bwsk_jax.coordination.meetings import Meeting

__all__ = ["Comparison", "Difference", "compare"]

UNEXPLAINED = "no named reason"


class _Key(NamedTuple):
    """What has to be equal. See `_normal`."""

    kind: str
    axes: tuple[str, ...]
    bytes: int
    devices: int = 0
    """How many meet; not told for sums, which may be one over several axes or several in turn."""


@dataclasses.dataclass(frozen=True)
class Difference:
    """Meetings that only one side has, or that the compiler runs in another way.

    Attributes:
      reason: why, in a few words; "no named reason" if none of those that are known applies.
      predicted, compiled: the kind of collective, mesh axes and bytes on each side; None where it has none.
      times: how often a run comes to them.
      operations: where: the primitives that were predicted to need them, or what the compiler calls them.
    """

    reason: str
    predicted: _Key | None
    compiled: _Key | None
    times: int
    operations: tuple[str, ...]

    def __str__(self) -> str:
        show = lambda key: f"{key.kind} over {'+'.join(key.axes)} of {key.bytes:,} bytes" if key else "none"
        where = f" at {', '.join(self.operations)}" if self.operations else ""
        sides = f"predicted {show(self.predicted)}, compiled {show(self.compiled)}"
        return f"{self.times} x {sides}{where}: {self.reason}"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A prediction beside a compiled program.

    Both are brought into one form first. An all-reduce over two axes is one over each in turn. A
    reduce-scatter is an all-reduce of which a part is kept, which is what XLA runs on CPUs. A meeting for
    several arrays is one for each.

    Attributes:
      predicted, compiled: how many meetings each side has in this form.
      agreeing: how many of them are on both sides.
      differences: the others.
    """

    predicted: int
    compiled: int
    agreeing: int
    differences: tuple[Difference, ...]

    @property
    def equal(self) -> bool:
        """Whether kinds, axes, bytes and times of all meetings are the same."""
        return not self.differences

    @property
    def unexplained(self) -> tuple[Difference, ...]:
        """The differences without a named reason."""
        return tuple(each for each in self.differences if each.reason == UNEXPLAINED)

    def __str__(self) -> str:
        if self.equal:
            return f"equal: {self.predicted} meetings predicted, {self.compiled} compiled"
        head = (
            f"{self.agreeing} of {self.predicted} predicted meetings are among the {self.compiled} compiled"
        )
        return "\n".join([head, *map(str, self.differences)])


def compare(meetings: Sequence[Meeting], compiled: Sequence[CompiledCollective]) -> Comparison:
    """Compare how often each kind of meeting occurs, by kind, axes and bytes."""
    predicted, found = _Side(meetings), _Side(compiled)
    both = predicted.times & found.times
    rest = _Rest(predicted, found)
    return Comparison(predicted.times.total(), found.times.total(), both.total(), tuple(rest.differences()))


def _normal(meeting: Meeting | CompiledCollective) -> Iterator[_Key]:
    if meeting.kind not in ("all-reduce", "reduce-scatter"):
        yield _Key(meeting.kind, meeting.axes, meeting.bytes, meeting.devices)
        return
    whole = meeting.bytes * (meeting.devices if meeting.kind == "reduce-scatter" else 1)
    for axis in meeting.axes:
        yield _Key("all-reduce", (axis,), whole)


class _Side:
    """Meetings by their form: how often they occur, and where."""

    def __init__(self, meetings: Iterable[Meeting | CompiledCollective]):
        self.times: Counter[_Key] = Counter()
        self.operations: dict[_Key, dict[str, None]] = {}
        for meeting in meetings:
            for key in _normal(meeting):
                self.times[key] += meeting.times
                self.operations.setdefault(key, {})[_operation(meeting)] = None

    def where(self, key: _Key) -> tuple[str, ...]:
        return tuple(filter(None, self.operations.get(key, ())))


def _operation(meeting: Meeting | CompiledCollective) -> str:
    name = meeting.primitive if isinstance(meeting, Meeting) else meeting.operation.rpartition("/")[2]
    return re.sub(r"\[.*", "", name)


# --- reasons -----------------------------------------------------------------------------------------------


def _is(predicted: str, compiled: str) -> Callable[[_Key, _Key], bool]:
    return lambda p, c: (p.kind, c.kind) == (predicted, compiled)


_SUBSTITUTES: dict[str, Callable[[_Key, _Key], bool]] = {
    "narrowed: the compiler sends a narrower type": lambda p, c: p.kind == c.kind and p.bytes == 2 * c.bytes,
    "widened: the compiler sends a wider type": lambda p, c: p.kind == c.kind and 2 * p.bytes == c.bytes,
    "a small gather done as a sum of parts": lambda p, c: (
        _is("all-gather", "all-reduce")(p, c) and p.bytes == c.bytes
    ),
    "parts gathered in place of their sum, which each device computes whole": lambda p, c: (
        _is("all-reduce", "all-gather")(p, c) and p.bytes == c.bytes
    ),
    "gathered whole and then cut, in place of an exchange of parts": lambda p, c: (
        _is("all-to-all", "all-gather")(p, c) and p.bytes * p.devices == c.bytes
    ),
}
"""Reasons by which one compiled collective over the same axes stands in for a predicted one."""

LOOK_UP = (
    "each device looks up the rows that it has, and the others add zeros, so that no rows are moved before"
)
WINDOWED = "windowed einsum: parts are passed on from device to device while others are multiplied"
HALO = "halo: a window, a shift or a pad reads the edge of the neighbour's part"
_HALO_OPERATIONS = re.compile(
    r"\b(conv_general_dilated|reduce_window\w*|select_and_\w+|cum\w+|pad|\w*slice|concatenate|rev|split)\b"
)
ROTATION = "a rotation: what goes round is sent at once, and not each of the two slices by itself"
REPEATED = "gathered again: the compiler keeps the parts and gathers a second time"
COMBINED = "combined: the compiler meets once for what was predicted to meet several times"
WHOLE_OPERAND = "the compiler gathers the whole operand of a sort or selection"
_WHOLE_OPERATIONS = re.compile(r"\b(top_k|sort|cholesky|lu|qr|eigh|svd|custom_linear_solve)\b")


class _Rest:
    """What only one side has, from which explained differences are taken one after the other."""

    def __init__(self, predicted: _Side, compiled: _Side):
        self.predicted, self.compiled = predicted, compiled
        self.only_predicted = predicted.times - compiled.times
        self.only_compiled = compiled.times - predicted.times

    def differences(self) -> Iterator[Difference]:
        for reason, holds in _SUBSTITUTES.items():
            yield from self.substitutes(reason, holds)
        yield from self.substitutes(WINDOWED, self.is_windowed)
        yield from self.substitutes(LOOK_UP, self.is_look_up)
        rotates = any(self.is_rotation(key, self.compiled, "concatenate") for key in self.only_compiled)
        for key, times in self.only_predicted.items():
            reason = COMBINED if self.compiled.times[key] else UNEXPLAINED
            if rotates and self.is_rotation(key, self.predicted, "slice"):
                reason = ROTATION
            yield Difference(reason, key, None, times, self.predicted.where(key))
        for key, times in self.only_compiled.items():
            where = self.compiled.where(key)
            yield Difference(self.reason_of_compiled(key, where), None, key, times, where)

    def substitutes(self, reason: str, holds: Callable[[_Key, _Key], bool]) -> Iterator[Difference]:
        for p in list(self.only_predicted):
            for c in list(self.only_compiled):
                times = min(self.only_predicted[p], self.only_compiled[c])
                if times and p.axes == c.axes and holds(p, c):
                    self.only_predicted[p] -= times
                    self.only_compiled[c] -= times
                    yield Difference(reason, p, c, times, self.predicted.where(p))
        self.only_predicted, self.only_compiled = +self.only_predicted, +self.only_compiled

    def is_windowed(self, p: _Key, c: _Key) -> bool:
        kinds = p.kind in ("all-gather", "all-reduce") and c.kind == "collective-permute"
        halo = any(map(_HALO_OPERATIONS.search, self.compiled.where(c)))
        return kinds and not halo and "dot_general" in self.predicted.where(p)

    def is_look_up(self, p: _Key, c: _Key) -> bool:
        kinds = p.kind in ("all-gather", "all-to-all") and c.kind == "all-reduce"
        return kinds and "gather" in self.predicted.where(p) and "gather" in self.compiled.where(c)

    def is_rotation(self, key: _Key, side: _Side, operation: str) -> bool:
        return key.kind == "collective-permute" and operation in side.where(key)

    def reason_of_compiled(self, key: _Key, where: Sequence[str]) -> str:
        if self.is_rotation(key, self.compiled, "concatenate"):
            return ROTATION
        if key.kind == "collective-permute" and any(map(_HALO_OPERATIONS.search, where)):
            return HALO
        if key.kind == "collective-permute" and "dot_general" in where:
            return WINDOWED
        if any(map(_WHOLE_OPERATIONS.search, where)):
            return WHOLE_OPERAND
        if key.kind == "all-gather" and self.predicted.times[key]:
            return REPEATED
        return UNEXPLAINED
