"""How far a reverse scan has come from the carry that it should have recovered, and what follows from it.

A gradient that went through a lost carry is NaN. A compiled program can say no more without calling back into
Python, and a program that calls back can be neither exported nor kept in the compilation cache. Where the
values are known while Python runs, as in a call outside `jit`, a warning says what has happened.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap

from bwsk_jax.engine.execute.spoiling import spoiled_if
from bwsk_jax.engine.program.types import at_least_float32, is_differentiable, varying_axes

__all__ = ["DriftAlarm", "ReconstructionWarning", "Summary", "spoiled", "warn_if_lost"]


Summary = dict[int, list[Any]]
"""Of each float of a carry, by its place: the sum of its squares, and how many elements are not finite."""


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

    def summarise(self, end: Sequence[Any]) -> Summary:
        """What `measure` has to know of the carry that a reverse scan starts from, given all its leaves."""
        with jax.debug_nans(False), jax.debug_infs(False):
            return {k: _sums(_square(a), ~jnp.isfinite(a)) for k, a in enumerate(end) if _is_float(a)}

    def measure(self, recovered: Sequence[Any], true: Sequence[Any], end: Summary) -> Any:
        """The largest relative distance between recovered and true starts, in units of what is tolerated.

        `recovered` holds all leaves of the carry where the reverse scan ended, `true` only the `leaves` that
        are compared; `end` summarises the carry where the reverse scan started.

        Half of the digits are tolerated, and so is one `rounding`: there the last digit of a wide start
        decides which way a narrow value is rounded. A start that is all 0, as a velocity's often is, is
        measured by the other starts, or by its end where those are 0 as well. Elements that are not finite
        are the user's own, which plain autodiff has as well, if they are not in the true start either or the
        carry was not finite at its end: they are left out.
        """
        with jax.debug_nans(False), jax.debug_infs(False):  # it looks for them itself
            return self._measure(recovered, true, end)

    def _measure(self, recovered: Sequence[Any], true: Sequence[Any], end: Summary) -> Any:
        overflowed = functools.reduce(jnp.logical_or, (lost > 0 for _, lost in end.values()), False)
        norms = {}
        for k, start in zip(self.leaves, true, strict=True):
            apart = recovered[k] - start
            excused = ~jnp.isfinite(start) | (~jnp.isfinite(apart) & overflowed)
            start = jnp.where(jnp.isfinite(start), start, 0)
            norms[k] = list(map(jnp.sqrt, _sums(_square(start), _square(jnp.where(excused, 0, apart)))))
        worst = jnp.zeros((), jnp.float32)
        anything = functools.reduce(jnp.maximum, (own for own, _ in norms.values()), worst)
        for k, (own, distance) in norms.items():
            scale = jnp.where(own > 0, own, jnp.where(anything > 0, anything, jnp.sqrt(end[k][0])))
            tolerance = max(float(jnp.finfo(recovered[k].dtype).eps) ** 0.5, self.rounding)
            lost = ~(distance <= tolerance * scale) & jnp.isfinite(own)  # also where it is not finite
            worst = jnp.maximum(worst, jnp.where(lost, jnp.nan_to_num(distance / scale) / tolerance + 1, 0))
        return worst


def _is_float(leaf: Any) -> bool:
    return is_differentiable(jax.typeof(leaf))


def _square(x: Any) -> Any:
    """The squared magnitudes, in float32 at least."""
    return at_least_float32(jnp.abs(x)) ** 2


def _sums(*arrays: Any) -> list[Any]:
    """The sums of arrays of one shape, in float32 at least.

    One reduction sums all of them over their last axis, because XLA's CPU compiler stores what each of
    several would read. What is left is little, and has a reduction for each array: devices that share the
    arrays add up several of these in one exchange.
    """
    wide = np.result_type(np.float32, *(a.dtype for a in arrays))  # JAX may be told not to promote
    sums = tuple(lax.stop_gradient(a.astype(wide)) for a in arrays)
    if arrays[0].ndim:
        zeros = (jnp.zeros((), wide),) * len(sums)
        add = lambda some, others: tuple(map(jnp.add, some, others))
        sums = lax.reduce(sums, zeros, add, (arrays[0].ndim - 1,))
    return [a.sum().astype(jnp.float32) for a in sums]


def spoiled(drift: Any, cotangents: Sequence[Any]) -> list[Any]:
    """The cotangents, but NaN if a carry was lost, and so are their derivatives.

    Where devices share a cotangent, it is NaN on all of them as soon as one has lost its carry.
    """

    @functools.cache
    def lost(axes):
        return (lax.pmax(drift, tuple(sorted(axes))) if axes else drift) > 0

    shared = [varying_axes(drift) - varying_axes(ct) for ct in cotangents]
    return [spoiled_if(lost(axes), ct) for ct, axes in zip(cotangents, shared, strict=True)]


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
