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
from jax import lax
from jax.custom_batching import custom_vmap

from bwsk_jax.engine.program.types import is_differentiable, varying_axes

__all__ = ["DriftAlarm", "ReconstructionWarning", "spoiled", "warn_if_lost"]


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

    def measure(self, recovered: Sequence[Any], true: Sequence[Any], end: Sequence[Any]) -> Any:
        """The largest relative distance between recovered and true starts, in units of what is tolerated.

        `recovered` and `end` hold all leaves of the carry, where the reverse scan ended and where it started;
        `true` holds only the `leaves` that are compared.

        Half of the digits are tolerated, and so is one `rounding`: there the last digit of a wide start
        decides which way a narrow value is rounded. A start that is all 0, as a velocity's often is, is
        measured by the other starts, or by its end where those are 0 as well. Elements that are not finite
        are the user's own, which plain autodiff has as well, if they are not in the true start either or the
        carry was not finite at its end: they are left out.
        """
        with jax.debug_nans(False), jax.debug_infs(False):  # it looks for them itself
            return lax.stop_gradient(self._measure(recovered, true, end))

    def _measure(self, recovered: Sequence[Any], true: Sequence[Any], end: Sequence[Any]) -> Any:
        overflowed = functools.reduce(jnp.logical_or, (~jnp.isfinite(a).all() for a in _floats(end)), False)
        norms = [_norm(jnp.where(jnp.isfinite(start), start, 0)) for start in true]
        anything = functools.reduce(jnp.maximum, norms, jnp.zeros((), jnp.float32))
        worst = jnp.zeros((), jnp.float32)
        for k, start, own in zip(self.leaves, true, norms, strict=True):
            scale = jnp.where(own > 0, own, jnp.where(anything > 0, anything, _norm(end[k])))
            tolerance = max(float(jnp.finfo(start.dtype).eps) ** 0.5, self.rounding)
            apart = recovered[k] - start
            excused = ~jnp.isfinite(start) | (~jnp.isfinite(apart) & overflowed)
            distance = _norm(jnp.where(excused, 0, apart))
            lost = ~(distance <= tolerance * scale) & jnp.isfinite(own)  # also where it is not finite
            worst = jnp.maximum(worst, jnp.where(lost, jnp.nan_to_num(distance / scale) / tolerance + 1, 0))
        return worst


def _floats(leaves: Sequence[Any]) -> list[Any]:
    return [leaf for leaf in leaves if is_differentiable(jax.typeof(leaf))]


def _norm(x: Any):
    """The Euclidean norm, in float32 at least."""
    magnitude = jnp.abs(x)
    return jnp.linalg.norm(
        magnitude.astype(jnp.promote_types(magnitude.dtype, jnp.float32)).reshape(-1)
    ).astype(jnp.float32)


def spoiled(drift: Any, cotangents: Sequence[Any]) -> list[Any]:
    """The cotangents, but NaN if a carry was lost.

    They are multiplied by NaN or by 1 rather than replaced, so that their derivatives are NaN as well. Where
    devices share a cotangent, it is NaN on all of them as soon as one has lost its carry.
    """

    @functools.cache
    def factor(axes):
        worst = lax.pmax(drift, tuple(sorted(axes))) if axes else drift
        return jnp.where(worst > 0, jnp.nan, jnp.ones_like(worst))

    shared = [varying_axes(drift) - varying_axes(ct) for ct in cotangents]
    return [ct * factor(axes).astype(ct.dtype) for ct, axes in zip(cotangents, shared, strict=True)]


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
