"""A scan in segments: each ends in a carry that is kept, from which the way back starts afresh."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from bwsk_jax.engine.execute.drift import DriftAlarm

__all__ = ["KeptCarries", "Segments"]


class KeptCarries(NamedTuple):
    """The carries, as flat lists, that are known exactly on the way back.

    Attributes:
      starts: the leaves of the first carry that a drift alarm compares with.
      ends: the leaves of the carries at the ends of all full segments, stacked.
      last: the leaves of the last carry.
    """

    starts: list[Any]
    ends: list[Any]
    last: list[Any]


@dataclasses.dataclass(frozen=True)
class Segments:
    """A scan as `count` segments of `size` iterations, and a last segment of `rest` iterations."""

    count: int
    size: int
    rest: int

    @classmethod
    def of(cls, length: int, size: int | None) -> Segments:
        """Cut `length` iterations into segments of `size`, or into one if that is None."""
        if size is None or size >= length:
            return cls(0, 1, length)
        return cls((length - 1) // size, size, (length - 1) % size + 1)

    def run(self, step: Callable, init: Any, xs: Any) -> tuple[Any, Any, Any]:
        """Scan; return the carry at the end of each full segment, the last carry and the stacked outputs."""
        if not self.count:
            return [], *lax.scan(step, init, xs, length=self.rest)

        def segment(carry, xs):
            carry, outs = lax.scan(step, carry, xs, length=self.size)
            return carry, (carry, outs)

        full, rest = self._cut(xs)
        carry, (ends, outs) = lax.scan(segment, init, full, length=self.count)
        last, tail = lax.scan(step, carry, rest, length=self.rest)
        return ends, last, self._join(outs, tail)

    def run_back(
        self, step: Callable, state: Any, kept: KeptCarries, stacked: Any, alarm: DriftAlarm
    ) -> tuple[Any, Any, Any]:
        """Scan in reverse; return the state at the start, the stacked outputs and how far the carry drifted.

        `step((carry, state), slices)` returns ((carry before, state), outputs).
        """

        def segment(state, start, end, stacked, size):
            (carry, state), outs = lax.scan(step, (end, state), stacked, length=size, reverse=True)
            return state, outs, alarm.measure(carry, start, end)

        if not self.count:
            return segment(state, kept.starts, kept.last, stacked, self.rest)
        full, rest = self._cut(stacked)
        ends = [kept.ends[k] for k in alarm.leaves]
        state, tail, drift = segment(state, [a[-1] for a in ends], kept.last, rest, self.rest)
        starts = [jnp.concatenate([a[None], b[:-1]]) for a, b in zip(kept.starts, ends, strict=True)]

        def back(state, slices):
            start, end, iterations = slices
            state, outs, drift = segment(state, start, end, iterations, self.size)
            return state, (outs, drift)

        state, (outs, drifts) = lax.scan(back, state, (starts, kept.ends, full), reverse=True)
        return state, self._join(outs, tail), jnp.maximum(drift, drifts.max())

    def _cut(self, stacked: Any) -> tuple[Any, Any]:
        """(full segments with two leading axes, the rest with one)."""
        n = self.count * self.size
        full = jax.tree.map(lambda a: a[:n].reshape(self.count, self.size, *a.shape[1:]), stacked)
        return full, jax.tree.map(lambda a: a[n:], stacked)

    def _join(self, full: Any, rest: Any) -> Any:
        """Undo `_cut`."""
        return jax.tree.map(lambda a, b: lax.concatenate([lax.collapse(a, 0, 2), b], 0), full, rest)
