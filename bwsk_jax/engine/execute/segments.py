"""A scan in segments: each ends in a carry that is kept, from which the way back starts afresh.

Forward and back are one scan over all iterations each. The carries are kept in an array that the scan itself
carries and writes in place, and the way back looks up in it where a new segment begins. To cut `xs` into
segments would copy it, and it often holds all weights of a model.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from bwsk_jax.engine.execute.drift import DriftAlarm, Sketch
from bwsk_jax.engine.program.types import varying_axes

__all__ = ["KeptCarries", "Segments"]


class KeptCarries(NamedTuple):
    """What is known, on the way back, of the leaves of the carries that are handed on, as flat lists.

    Attributes:
      start: what a drift alarm has to know of the first carry.
      ends: the leaves of the carries at the ends of all segments but the last one, stacked.
      last: the leaves of the last carry.
    """

    start: dict[int, Sketch]
    ends: list[Any]
    last: list[Any]


@dataclasses.dataclass(frozen=True)
class Segments:
    """A scan of `length` iterations as segments of `size` iterations; the last segment may be shorter.

    With `reverse` it goes from the last slices to the first, and back from the first to the last. So many
    iterations as `unroll` says are one of the compiled loop.
    """

    length: int
    size: int
    reverse: bool
    unroll: int

    @classmethod
    def of(cls, length: int, size: int | None, reverse: bool, unroll: int) -> Segments:
        """Cut `length` iterations into segments of `size`, or leave them in one if that is None."""
        return cls(length, max(1, length) if size is None else size, reverse, unroll)

    @property
    def has_no_loop(self) -> bool:
        """Whether all iterations are one of the compiled loop, so that XLA sees them beside each other."""
        return self.unroll >= self.length

    @property
    def _numbers(self) -> Any:
        """Which iteration, in the order of going forward, each of the slices belongs to."""
        numbers = jnp.arange(self.length)
        return numbers[::-1] if self.reverse else numbers

    def _scan(self, step: Callable, init: Any, xs: Any, *, back: bool = False) -> Any:
        return lax.scan(
            step, init, xs, length=self.length, reverse=self.reverse is not back, unroll=self.unroll
        )

    @property
    def _later(self) -> int:
        """The number of segments after the first, each of which begins with a carry that is kept."""
        return (self.length - 1) // self.size if self.length else 0

    def run(
        self, step: Callable, init: list[Any], xs: Any, handed: Sequence[int]
    ) -> tuple[list[Any], list[Any], Any]:
        """Scan; return what is `handed` on of the carries where a next segment begins, the last carry and the
        stacked outputs.
        """
        if not self._later:
            return [], *self._scan(step, init, xs)

        def keeping(state, slices):
            carry, ends = state
            k, x = slices
            carry, outs = step(carry, x)
            ends = [self._written(a, carry[j], k) for a, j in zip(ends, handed, strict=True)]
            return (carry, ends), outs

        ends = [jnp.broadcast_to(init[j][None], (self._later, *init[j].shape)) for j in handed]
        (last, ends), outs = self._scan(keeping, (init, ends), (self._numbers, xs))
        return ends, last, outs

    def _written(self, ends: Any, carry: Any, k: Any) -> Any:
        """Each iteration writes to the place of its segment, where the carry of the segment's last stays."""
        segment = k // self.size
        before = lax.dynamic_index_in_dim(ends, segment, keepdims=False)
        kept = jnp.where(segment < self._later, carry, before)
        return lax.dynamic_update_index_in_dim(ends, kept, segment, 0)

    def run_back(
        self, step: Callable, state: Any, kept: KeptCarries, stacked: Any, alarm: DriftAlarm
    ) -> tuple[Any, Any, Any]:
        """Scan back; return the state at the start, the stacked outputs and how far the carry drifted.

        `step((carry, state), slices)` returns ((carry before, state), outputs).
        """
        end = alarm.end(kept.last)
        if not self._later:
            (carry, state), outs = self._scan(step, (kept.last, state), stacked, back=True)
            return state, outs, alarm.measure(carry, kept.start, end)

        def afresh(state, slices):
            carry, state, drift, end = state
            k, slices = slices
            ends_segment = ((k + 1) % self.size == 0) & (k // self.size < self._later)
            row = functools.partial(lax.dynamic_index_in_dim, index=k // self.size, keepdims=False)

            def compare():
                true = list(map(row, kept.ends))
                return jnp.maximum(drift, alarm.measure(carry, alarm.start(true), end)), alarm.end(true)

            if alarm.leaves:
                drift, end = lax.cond(ends_segment, compare, lambda: (drift, end))
            carry = [jnp.where(ends_segment, row(a), b) for a, b in zip(kept.ends, carry, strict=True)]
            (carry, state), outs = step((carry, state), slices)
            return (carry, state, drift, end), outs

        start = kept.last, state, _no_drift(kept.last), end
        (carry, state, drift, end), outs = self._scan(afresh, start, (self._numbers, stacked), back=True)
        return state, outs, jnp.maximum(drift, alarm.measure(carry, kept.start, end))


def _no_drift(carry: list[Any]) -> Any:
    """0, but of the type that the drift of the carry has."""
    axes = frozenset().union(*map(varying_axes, carry))
    zero = jnp.zeros((), jnp.float32)
    return lax.pcast(zero, tuple(sorted(axes)), to="varying") if axes else zero
