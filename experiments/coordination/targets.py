"""The gradient of BERT-base on TPUs that need not be there: predicted meetings beside compiled ones."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

import bwsk_jax
from bwsk_jax import bert
from bwsk_jax.targets import compile_for, find_target

__all__ = ["LAYOUTS", "bert_program", "compare_target", "mesh_sizes"]

LAYOUTS = {
    "data": ("data",),
    "data x model": ("data", "model"),
    "data x sequence": ("data", "seq"),
    "fsdp": ("fsdp",),
}
"""The mesh axes of each way to split a BERT. The first splits the batch, and "fsdp" the parameters too."""
SECOND = 4
"""The devices along the second axis."""


def mesh_sizes(layout: str, devices: int) -> dict[str, int]:
    """The sizes of the mesh axes of a layout on so many devices.

    >>> mesh_sizes("data x model", 16)
    {'data': 4, 'model': 4}
    """
    names = LAYOUTS[layout]
    second = min(SECOND, devices)
    return dict(zip(names, (devices,) if len(names) == 1 else (devices // second, second), strict=True))


def bert_program(
    config: bert.BertConfig, sizes: dict[str, int], batch: int, length: int
) -> tuple[Callable, tuple, tuple, Any]:
    """The loss and gradients of a BERT: function, arguments, and how both ends are split."""
    params = jax.eval_shape(lambda key: bert.init_params(config, key), jax.random.key(0))

    def loss(params, ids_bt, key):
        hidden = bert.encode(config, params, ids_bt, dropout_key=key)
        return jax.nn.log_softmax(bert.predict(config, params, hidden))[..., 0].mean()

    specs = bert.param_specs(params, sizes)
    ids = PartitionSpec(next(iter(sizes)), "seq" if "seq" in sizes else None)
    key = jax.eval_shape(lambda: jax.random.key(0, impl="rbg"))
    args = (params, jax.ShapeDtypeStruct((batch, length), jnp.int32), key)
    return jax.value_and_grad(loss), args, (specs, ids, PartitionSpec()), (PartitionSpec(), specs)


def compare_target(target: str, layout: str, config: bert.BertConfig) -> dict[str, Any]:
    """Predict and compile the gradient on all devices of a target, with 4 windows of 128 tokens on each."""
    machine = find_target(target)
    sizes = mesh_sizes(layout, machine.devices)
    fun, args, in_specs, out_specs = bert_program(config, sizes, 4 * machine.devices, 128)
    mesh = machine.mesh(tuple(sizes.values()), tuple(sizes))
    report = bwsk_jax.calm(fun, *args, mesh=mesh, in_specs=in_specs, out_specs=out_specs)
    placed = jax.tree.map(
        lambda x, spec: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec)),
        args,
        jax.tree.broadcast(in_specs, args, is_leaf=lambda spec: isinstance(spec, PartitionSpec)),
    )
    out = jax.tree.map(functools.partial(NamedSharding, mesh), out_specs)
    jitted = jax.jit(fun, out_shardings=out)
    program = compile_for(jitted, *placed, target=machine)
    found = report.check(program)
    return {
        "mesh": sizes,
        "predicted": found.predicted,
        "compiled": found.compiled,
        "agreeing": found.agreeing,
        "differences": list(map(str, found.differences)),
        "without a reason": len(found.unexplained),
        "bytes": report.bytes_per_axis,
        "critical path": report.critical_path,
    }
