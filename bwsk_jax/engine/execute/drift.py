"""How far a reverse scan has come from the carry that it should have recovered, and what follows from it.

The first carry itself is not kept to compare with, which would take as much memory as the scan may save in
all. A few random projections of it are kept: the length of a vector is that of its projections on average
(W. B. Johnson and J. Lindenstrauss, 1984), and the projections of a difference are differences of
projections.

A gradient that went through a lost carry is NaN. A compiled program can say no more without calling back into
Python, and a program that calls back can be neither exported nor kept in the compilation cache. Where the
values are known while Python runs, as in a call outside `jit`, a warning says what has happened.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap

from bwsk_jax.engine.execute.spoiling import spoiled_if
from bwsk_jax.engine.program.platform import platform
from bwsk_jax.engine.program.types import at_least_float32, is_differentiable, varying_axes

__all__ = ["DriftAlarm", "ReconstructionWarning", "Sketch", "spoiled", "warn_if_lost"]


class Sketch(NamedTuple):
    """What is kept of an array to tell how far another one is from it.

    Both attributes have a first axis for the places on the first axis of the array, or of length 1 where a
    place has so few elements that projections would take as much memory.

    Attributes:
      projections: on random vectors, of the elements that are finite; the vectors are on the last axis.
      not_finite: how many elements are not.
    """

    projections: Any
    not_finite: Any


class ReconstructionWarning(UserWarning):
    """A reverse scan ended far from the carry it should have recovered: its gradients are therefore NaN."""


@dataclasses.dataclass(frozen=True)
class DriftAlarm:
    """Compares the carry that a reverse scan recovered with the true one.

    Attributes:
      leaves: the places of the carry's leaves that are compared, those that are recovered with rounding.
      rounding: the largest epsilon among the types that these are recovered in.
    """

    leaves: tuple[int, ...]
    rounding: float

    def start(self, carry: Sequence[Any]) -> dict[int, Sketch]:
        """What `measure` has to know of the carry that should be recovered, given all its leaves."""
        return {k: _sketch(carry[k]) for k in self.leaves}

    def end(self, carry: Sequence[Any]) -> dict[int, Any]:
        """What it has to know of the carry that the reverse scan starts from, given all its leaves: the size
        of the largest element of each float, which is not finite if any is not.
        """
        floats = (k for k, a in enumerate(carry) if self.leaves and is_differentiable(jax.typeof(a)))
        return {k: jnp.max(jnp.abs(lax.stop_gradient(at_least_float32(carry[k]))), initial=0) for k in floats}

    def measure(self, recovered: Sequence[Any], start: dict[int, Sketch], end: dict[int, Any]) -> Any:
        """The largest relative distance of the recovered leaves, in units of what is tolerated.

        Half of the digits are tolerated, and so is one `rounding`: there the last digit of a wide start
        decides which way a narrow value is rounded. It is twice that, because lengths are estimates. A start
        that is all 0, as a velocity's often is, is measured by the other starts, or by the largest element of
        its end where those are 0 as well.

        Elements that are not finite are the user's own, which plain autodiff has as well, if they are not in
        the true start either or the carry was not finite at its end. They are left out, and in the latter
        case so are the others at the same place on the first axis.
        """
        with jax.debug_nans(False), jax.debug_infs(False):  # it looks for them itself
            return self._measure([recovered[k] for k in self.leaves], start, end)

    def _measure(self, recovered, start, end):
        overflowed = functools.reduce(operator.or_, (~jnp.isfinite(a) for a in end.values()), False)
        lengths = {k: _length(s.projections) for k, s in start.items()}
        longest = functools.reduce(jnp.maximum, lengths.values(), 0.0)
        worst = jnp.zeros((), jnp.float32)
        for (k, own), array in zip(lengths.items(), recovered, strict=True):
            found = _sketch(array)
            differs = found.not_finite != start[k].not_finite
            apart = found.projections - start[k].projections
            apart = jnp.where((differs & overflowed)[:, None], 0, apart)
            apart = jnp.where((differs & ~overflowed).any(), jnp.inf, _length(apart))
            scale = jnp.where(own > 0, own, jnp.where(longest > 0, longest, end[k] * array.size**0.5))
            tolerance = 2 * max(float(jnp.finfo(array.dtype).eps) ** 0.5, self.rounding)
            lost = ~(apart <= tolerance * scale)  # also where it is not finite
            excess = jnp.where(lost, jnp.nan_to_num(apart / scale) / tolerance + 1, 0)
            worst = jnp.maximum(worst, excess.astype(worst.dtype))
        return worst


_PROJECTIONS = 8
"""For vectors of standard normal numbers, the ratio of two lengths seems more than twice as large as it is in
one of 30 cases, more than four times in one of 2,800, and less than a tenth of it in one of 3 million."""

_AT_ONCE = 256
"""Elements that are projected together at least, so that the projections are few."""
_UNIT = 2**-24
"""What a projection of 1 is kept as, so that no sum of floats overflows."""
_VARIANCE = 13 / 12
"""Of the weights on the last axes and of those on the others."""
_AS_CONSTANTS = 2**16
"""So many weights are constants of a program for a CPU. More, or those for other devices, are computed where
they are used: there that takes less memory."""


def _sketch(array: Any) -> Sketch:
    """The sketch of an array, which passes no gradients on.

    The weight of an element is the product of one for its place on the last axes and one for that on the
    others. One reduction gives all sums over the last axes, because XLA's CPU compiler stores what each of
    several would read. What is left is little.
    """
    rank = next((r for r in range(array.ndim, -1, -1) if math.prod(array.shape[r:]) >= _AT_ONCE), 0)
    others, last = array.shape[:rank], array.shape[rank:]
    wide = lax.stop_gradient(at_least_float32(array))
    finite = jnp.isfinite(wide)
    wide = jnp.where(finite, wide, 0) * np.asarray(_UNIT, wide.dtype)
    weighted = lambda a, w: a * w.astype(wide.real.dtype)
    terms = *(weighted(wide, w) for w in _weights((1,) * rank + last, 1)), (~finite).astype(np.int32)
    add = lambda some, others: tuple(map(operator.add, some, others))
    zeros = tuple(jnp.zeros((), term.dtype) for term in terms)
    *sums, not_finite = lax.reduce(terms, zeros, add, tuple(range(rank, array.ndim)))
    sums = map(weighted, sums, _weights(others, 2**31))
    *projections, not_finite = (jnp.atleast_1d(a.sum(tuple(range(1, rank)))) for a in (*sums, not_finite))
    return Sketch(jnp.stack(projections, -1), not_finite)


def _weights(shape: tuple[int, ...], first: int) -> list[Any]:
    """Random arrays, of which the places alone decide, numbered from `first`. The numbers are independent, of
    either sign, and in their sizes from 0.5 to 1.5.
    """
    if platform() == "cpu" and math.prod(shape) <= _AS_CONSTANTS:
        number = np.arange(math.prod(shape), dtype=np.uint32)
    else:
        number = jnp.zeros(shape, np.uint32)
        for axis, length in enumerate(shape):
            number = number * np.uint32(length) + lax.broadcasted_iota(np.uint32, shape, axis)
    # The finalizer of MurmurHash3 (A. Appleby): each bit depends on all others, but 0 stays 0.
    number = number + np.uint32(first)
    number = (number ^ (number >> 16)) * np.uint32(0x85EBCA6B)
    number = (number ^ (number >> 13)) * np.uint32(0xC2B2AE35)
    number = number ^ (number >> 16)
    odd = np.random.default_rng(0).integers(2**31, size=_PROJECTIONS, dtype=np.uint32) * 2 + 1
    return [_signed_sizes(number * m).reshape(shape) for m in odd]


def _signed_sizes(number: Any) -> Any:
    size = np.float32(0.5) + (number % np.uint32(2**31)).astype(np.float32) * np.float32(2**-31)
    sign = np.float32(1) - np.float32(2) * (number >> 31).astype(np.float32)
    return sign * size


def _length(projections: Any) -> Any:
    """The length of what has these projections, without squares that overflow or vanish."""
    size = jnp.max(jnp.abs(projections), initial=0)
    ratio = jnp.abs(projections) / jnp.where(size > 0, size, 1)
    return size * (jnp.sqrt(jnp.sum(ratio**2) / _PROJECTIONS) / (_UNIT * _VARIANCE))


def spoiled(drift: Any, cotangents: Sequence[Any]) -> list[Any]:
    """The cotangents, but NaN if a carry was lost, and so are their derivatives. None stays what it is.

    Where devices share a cotangent, it is NaN on all of them as soon as one has lost its carry.
    """

    @functools.cache
    def lost(axes):
        return (lax.pmax(drift, tuple(sorted(axes))) if axes else drift) > 0

    shared = lambda ct: varying_axes(drift) - varying_axes(ct)
    return [ct if ct is None else spoiled_if(lost(shared(ct)), ct) for ct in cotangents]


def warn_if_lost(drift: Any) -> None:
    """Warn of a lost carry if it is known by now whether it was, which it is in a call outside `jit`."""
    try:
        lost = bool(drift > 0)
    except jax.errors.ConcretizationTypeError:
        _within_mapped_axis(drift)
        return
    if lost:
        warnings.warn(_lost(float(drift)), ReconstructionWarning, stacklevel=2)


@custom_vmap
def _within_mapped_axis(drift):
    return drift


@_within_mapped_axis.def_vmap
def _warn_for_all_elements(size, batched, drift):
    warn_if_lost(jnp.max(drift, axis=0))
    return drift, True


def _lost(drift: float) -> str:
    return (
        f"a reverse scan recovered its carry {drift:.3g} times less accurately than half of its digits: "
        "gradients through it are NaN. Pass save_every=k to start afresh every k iterations, a smaller "
        "max_overhead or larger max_bytes to save more, or use a wider type for the carry."
    )
