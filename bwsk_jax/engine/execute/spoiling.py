"""Make arrays NaN if something has gone wrong, at no cost if nothing has.

They are multiplied by NaN or by 1. XLA's compilers for CPUs and TPUs may write such a product beside what a
scan has stacked, and so hold the gradients of all layers twice. There a loop takes its place, which writes
NaN to one row after the other, or does nothing, because the body of a loop writes where it reads. (One that
wrote all rows at once would be given fast memory for them on a TPU, and slow memory for a copy. On a mesh
with explicit axes the product stays.) A loop whose length is not known has no derivative. So both are what a
primitive is lowered to, and the derivatives of the primitive, which is linear, are itself.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

__all__ = ["spoiled_if"]


def spoiled_if(lost: Any, array: Any) -> Any:
    """Return `array`, but all NaN if the boolean `lost` is true; derivatives with respect to it are as well.

    >>> import jax, jax.numpy as jnp
    >>> spoiled_if(jnp.array(False), jnp.arange(3.0)).tolist()
    [0.0, 1.0, 2.0]
    >>> jax.grad(lambda x: spoiled_if(jnp.array(True), x**2).sum())(jnp.arange(3.0)).tolist()
    [nan, nan, nan]
    """
    return _spoil_p.bind(lost, array)


def _loop(lost, array):
    if array.ndim < 2 or not array.size or jax.typeof(array).sharding.mesh.explicit_axes:
        return _product(lost, array)
    row = lax.full(array.shape[1:], jnp.nan, array.dtype)
    spoil = lambda k, array: lax.dynamic_update_index_in_dim(array, row, k, 0)
    return lax.fori_loop(0, jnp.where(lost, array.shape[0], 0), spoil, array)


def _product(lost, array):
    return array * jnp.where(lost, jnp.nan, 1.0).astype(array.dtype)


def _jvp(primals, tangents):
    lost, array = primals
    tangent = tangents[1]
    return spoiled_if(lost, array), tangent if type(tangent) is ad.Zero else spoiled_if(lost, tangent)


def _transpose(cotangent, lost, _):
    return None, cotangent if type(cotangent) is ad.Zero else spoiled_if(lost, cotangent)


def _batched(args, axes):
    (lost, array), (lost_axis, array_axis) = args, axes
    if lost_axis is None:
        return spoiled_if(lost, array), array_axis
    return jax.vmap(_product, (lost_axis, array_axis))(lost, array), 0


_spoil_p = Primitive("spoil")
_spoil_p.def_impl(_product)
_spoil_p.def_abstract_eval(lambda lost, array: array)
ad.primitive_jvps[_spoil_p] = _jvp
ad.primitive_transposes[_spoil_p] = _transpose
batching.primitive_batchers[_spoil_p] = _batched
mlir.register_lowering(_spoil_p, mlir.lower_fun(_product, multiple_results=False))
for _platform in ("cpu", "tpu"):
    mlir.register_lowering(_spoil_p, mlir.lower_fun(_loop, multiple_results=False), platform=_platform)
