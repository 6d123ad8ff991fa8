"""`calm`: where the devices of a sharded program have to meet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import jaxpr_as_fun
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from bwsk_jax.classification.classify import classify
from bwsk_jax.coordination.deferral import deferrals
from bwsk_jax.coordination.equations import describe_equations
from bwsk_jax.coordination.meetings import meeting_of
from bwsk_jax.coordination.numbering import NumberedJaxpr, number_equations
from bwsk_jax.coordination.phases import critical_path, depths, phases
from bwsk_jax.coordination.report import CalmReport
from bwsk_jax.coordination.shardy import partition

__all__ = ["calm"]


def calm(
    fun: Callable, *args: Any, mesh: Mesh | AbstractMesh, in_specs: Any, out_specs: Any = None
) -> CalmReport:
    """Predict every meeting of a sharded program: each point at which its devices exchange messages.

    Neither devices nor a compilation are needed. The function is traced and lowered, and Shardy, which is the
    partitioner of XLA, splits its values and writes the collectives in this process. Where XLA is known to do
    otherwise, for halos and for the operands of products and sums, its way is predicted. A compiler may still
    combine, move or replace collectives, and `CalmReport.check` compares the prediction with a compiled
    program.

    Args:
      fun: a function of pytrees of arrays, jitted or not.
      *args: its arguments, as arrays or `jax.ShapeDtypeStruct`s. Only their shapes and types count.
      mesh: names and sizes of the mesh axes. They are taken as automatic, which is what lets Shardy decide
        how values between the arguments and the results are split.
      in_specs: a `PartitionSpec` for each argument, or for several at once, as a prefix of the tuple `args`.
        None stands for `PartitionSpec()`: the whole array on each device.
      out_specs: the same for what `fun` returns. By default the partitioner decides.

    Raises:
      ValueError: a `PartitionSpec` names no axis of the mesh or does not divide the dimension, as JAX says.

    In a layer with data parallelism only the gradient of the weights needs a meeting, for it is a sum over
    examples, which the devices have split among them:

    >>> import bwsk_jax, jax, jax.numpy as jnp
    >>> from jax.sharding import AbstractMesh, PartitionSpec as P
    >>> def loss(w, x):
    ...     return jnp.square(jnp.tanh(x @ w)).sum()
    >>> w, x = jax.ShapeDtypeStruct((64, 64), jnp.float32), jax.ShapeDtypeStruct((1024, 64), jnp.float32)
    >>> mesh = AbstractMesh((256,), ("data",))
    >>> report = bwsk_jax.calm(jax.grad(loss), w, x, mesh=mesh, in_specs=(P(), P("data")))
    >>> for meeting in report.meetings:
    ...     print(meeting.kind, meeting.axes, meeting.bytes, meeting.primitive, "|", meeting.why)
    all-reduce ('data',) 16384 dot_general | sum over a split dimension
    """
    shapes = jax.eval_shape(lambda *args: args, *args)
    numbered, module = _lower(fun, shapes, mesh, in_specs, out_specs)
    sizes = dict(zip(mesh.axis_names, mesh.axis_sizes, strict=True))
    block = partition(module, numbered, sizes)
    equations = describe_equations(numbered)
    depth_of = depths(block)
    return CalmReport(
        mesh=sizes,
        meetings=tuple(
            meeting_of(exchange, equations, depth_of[exchange])
            for exchange in block.exchanges()
            if exchange.times
        ),
        deferrable=tuple(deferrals(block)),
        phases=tuple(phases(block)),
        critical_path=critical_path(block),
        equations=equations,
        module=module,
        classify_by_reference=lambda: classify(fun, *shapes, taxonomy="reference"),
    )


def _lower(
    fun: Callable, shapes: Any, mesh: Mesh | AbstractMesh, in_specs: Any, out_specs: Any
) -> tuple[NumberedJaxpr, Any]:
    """The function as a numbered jaxpr, and the StableHLO that JAX lowers it to."""
    axes = AbstractMesh(mesh.axis_sizes, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names))
    args = jax.tree.map(
        lambda shape, sharding: jax.ShapeDtypeStruct(
            shape.shape, shape.dtype, sharding=sharding, weak_type=shape.weak_type
        ),
        shapes,
        _shardings(axes, in_specs, shapes),
    )
    closed, results = jax.make_jaxpr(fun, return_shape=True)(*args)
    out = None if out_specs is None else jax.tree.leaves(_shardings(axes, out_specs, results))
    numbered = number_equations(closed)
    traced = jax.jit(jaxpr_as_fun(numbered.closed), out_shardings=out).trace(*jax.tree.leaves(args))
    # The platform has to be named where no device is; some primitives lower in another way on others.
    return numbered, traced.lower(lowering_platforms=("cpu",)).compiler_ir("stablehlo")


def _shardings(mesh: AbstractMesh, specs: Any, values: Any) -> Any:
    """The sharding of each leaf of `values`, of which `specs` is a prefix."""
    is_spec = lambda spec: isinstance(spec, PartitionSpec)
    none_or_spec = lambda spec: spec is None or is_spec(spec)
    whole = jax.tree.map(lambda spec: PartitionSpec() if spec is None else spec, specs, is_leaf=none_or_spec)
    each = jax.tree.broadcast(whole, values, is_leaf=is_spec)
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), each, is_leaf=is_spec)
