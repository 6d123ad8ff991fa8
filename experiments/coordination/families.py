"""Families of models on 8 devices: predicted meetings beside compiled ones, and which meetings are needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import bwsk_jax
from experiments.families import FAMILIES, Size
from experiments.families.measure import abstract, arguments, gradient

__all__ = ["DEVICES", "SPLITS", "compare_family"]

DEVICES = 8
_FAST: dict[str, str | bool] = {"xla_backend_optimization_level": "0"}
SIZE = Size(batch=24, time=16, width=64, layers=2)
"""No dimension but the batch is divided by 24, by which it is found."""


def _at(rank: int, dimension: int | None) -> PartitionSpec:
    return PartitionSpec(*("data" if dimension == k else None for k in range(rank)))


def _batch(x: Any) -> int | None:
    return next((k for k, size in enumerate(x.shape) if size == SIZE.batch), None)


def _even(x: Any, start: int, stop: int) -> int | None:
    return next((k for k in range(start, stop) if x.shape[k] % DEVICES == 0), None)


def _sequence(x: Any) -> int | None:
    batch = _batch(x)
    return None if batch is None else _even(x, batch + 1, x.ndim - 1)


def _everything(x: Any) -> int | None:
    batch = _batch(x)
    return batch if batch is not None else _even(x, 1, x.ndim)


SPLITS: dict[str, Callable[[Any], int | None]] = {
    "data": _batch,
    "fsdp": _everything,
    "sequence": _sequence,
}
"""Which dimension of an array is split: of parameters, those that are not batched, only fsdp splits any."""


def compare_family(family: str, split: str) -> dict[str, Any]:
    """Predict, compile and prove the gradient of a family that is split in one of the ways."""
    stack = abstract(FAMILIES[family], jnp.float32, SIZE)
    args, fun = arguments(stack), gradient(stack, jax.lax.scan)
    specs = jax.tree.map(lambda x: _at(x.ndim, SPLITS[split](x)), args)
    out = specs[0] if split == "fsdp" else None
    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(AxisType.Auto,))
    report = bwsk_jax.calm(fun, *args, mesh=mesh, in_specs=specs, out_specs=out)
    place = lambda spec: NamedSharding(mesh, spec)
    placed = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place(s)), args, specs)
    jitted = jax.jit(fun, out_shardings=None if out is None else jax.tree.map(place, out))
    found, proof = report.check(jitted.lower(*placed).compile(_FAST)), report.prove()
    return {
        "predicted": found.predicted,
        "compiled": found.compiled,
        "agreeing": found.agreeing,
        "differences": list(map(str, found.differences)),
        "without a reason": len(found.unexplained),
        "deferrable": len(report.deferrable),
        "pairs": len(proof.pairs),
        "needed but not predicted": len(proof.missed),
        "predicted though no dependence was seen": len(proof.unneeded),
        "skipped": len(proof.skipped),
    }
