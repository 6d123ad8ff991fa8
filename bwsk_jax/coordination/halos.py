"""What devices send each other of the edges of their parts (halos).

Each part of a slice, pad or window along a split dimension needs a stretch of the operand: its own part less
or more something at both ends, and what it lacks lies with its neighbours. Shardy leaves this to XLA, which
sends it by collective permutes: one for each neighbour in either direction, of the most that any part needs.
Where the stretches wander so far from the parts that this would send much in vain, XLA sends each piece by
itself, with as many pieces to a permute as no two of which have one sender or receiver. Where even that is
about as much as the whole operand, it gathers the operand.

Here is only the arithmetic of one dimension; `shardy` knows the operations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

__all__ = ["Stretches", "widths_sent"]


@dataclasses.dataclass(frozen=True)
class Stretches:
    """The stretch of an operand that each part of a result needs, along one dimension.

    Attributes:
      size: of the operand.
      parts: how many there are.
      starts, ends: of the stretch of each part; they may be outside of the operand.
      low: the padding in front of the first.
      limit: what of the operand is read at all, from its beginning.
    """

    size: int
    parts: int
    starts: tuple[int, ...]
    ends: tuple[int, ...]
    low: int
    limit: int

    @property
    def width(self) -> int:
        """Of the widest stretch."""
        return max(end - start for start, end in zip(self.starts, self.ends, strict=True))

    @property
    def part(self) -> int:
        """The width of a part of the operand."""
        return -(-self.size // self.parts)

    @property
    def left(self) -> list[int]:
        """How far each stretch begins before its part; less than 0 if it begins inside or after it."""
        return [place * self.part - start for place, start in enumerate(self.starts)]

    @property
    def right(self) -> list[int]:
        """How far each stretch ends after its part."""
        return [end - (place + 1) * self.part for place, end in enumerate(self.ends)]


def widths_sent(needed: Stretches) -> list[int] | None:
    """The width of what each collective permute sends; None if the whole operand is gathered.

    Four parts of 4, of which each needs one element more at either end:

    >>> widths_sent(Stretches(size=16, parts=4, starts=(-1, 3, 7, 11), ends=(5, 9, 13, 17), low=1, limit=16))
    [1, 1]

    The first half of 32 elements in 8 parts, split anew into 8 parts:

    >>> starts = tuple(range(0, 16, 2))
    >>> ends = tuple(start + 2 for start in starts)
    >>> widths_sent(Stretches(size=32, parts=8, starts=starts, ends=ends, low=0, limit=16))
    [4, 2]
    """
    if needed.low == needed.left[0] and max(*needed.left, *needed.right) > 2 * needed.width:
        return None if 2 * needed.width >= needed.parts * needed.part else _by_pieces(needed)
    return _by_neighbours(needed)


def _by_neighbours(needed: Stretches) -> list[int] | None:
    part, left, right = needed.part, max(needed.left[1:]), max(needed.right[:-1])
    much = left + right + part >= part * needed.parts
    first, last = -max(needed.left), part + max(needed.right)
    if (much and max(left, right) > part) or first >= last:
        return None
    widths = []
    for hops in range(1, needed.parts):
        here = min(left - part * (hops - 1), part) - max((1 - hops) * part - last, 0)
        if left > part * (hops - 1) and -hops * part < last:
            widths.append(here)
    for hops in range(1, needed.parts):
        here = min(right - part * (hops - 1), part) - max(first - hops * part, 0)
        if right > part * (hops - 1) and here > 0:
            widths.append(here)
    return widths


# --- piece by piece ----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Piece:
    """A stretch of one part that another one receives; places count from the beginning of the sender's."""

    offset: int
    receiver: int
    begin: int
    end: int


def _by_pieces(needed: Stretches) -> list[int]:
    waiting = [sorted(pieces, key=lambda piece: piece.offset) for pieces in _pieces(needed)]
    widths = []
    while any(waiting):
        receiving: set[int] = set()
        begin, end = needed.part, 0
        for pieces in waiting:
            if not pieces:
                continue
            piece = pieces[0]
            opposite = (begin > piece.end and end == needed.part and piece.begin == 0) or (
                end < piece.begin and begin == 0 and piece.end == needed.part
            )
            if receiving and (piece.receiver in receiving or opposite):
                continue
            receiving.add(piece.receiver)
            begin, end = min(begin, piece.begin), max(end, piece.end)
            pieces.pop(0)
        widths.append(end - begin)
    return widths


def _pieces(needed: Stretches) -> Sequence[list[_Piece]]:
    """What each part has to send."""
    part = needed.part
    sent: list[list[_Piece]] = [[] for _ in range(needed.parts)]
    for receiver, (start, stop) in enumerate(zip(needed.starts, needed.ends, strict=True)):
        place, end = max(start, 0), min(stop, needed.limit)
        while place < end:
            owner = place // part
            until = min((owner + 1) * part, end)
            if owner != receiver:
                sent[owner].append(
                    _Piece(place - start, receiver, place - owner * part, until - owner * part)
                )
            place = until
    return sent
