"""Long programs to plan; run as a program, it prints the plans of some, for comparison between processes.

`python -m tests.support.unrolled 12` plans twelve unrolled couplings, among others.
"""

import math
import sys

import jax
import jax.numpy as jnp
import numpy as np

import bwsk_jax

__all__ = ["couplings", "couplings_to_scan", "printed"]

struct = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
HALF = struct(4, 8)


def couplings(carry, weights):
    """One iteration of as many couplings as there are pairs of weights."""
    a, b = carry
    for k in range(len(weights) // 2):
        a = a + jnp.tanh(b @ weights[2 * k])
        b = b + jnp.tanh(a @ weights[2 * k + 1])
    return (a, b), None


def couplings_to_scan(count, length=1):
    """The arguments of `plan_scan` for a body with that many couplings."""
    return couplings, (HALF, HALF), struct(length, 2 * count, 8, 8)


def with_parameters_that_print_addresses(x, w):
    """Custom derivatives keep functions in their equations, and a mesh of devices keeps sets of names."""
    mesh = jax.make_mesh((1, 1), ("rows", "columns"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    rows, both = jax.P("rows"), jax.P("rows", "columns")
    mapped = jax.shard_map(
        lambda x: jax.lax.psum(jnp.sin(x), "columns"), mesh=mesh, in_specs=both, out_specs=rows
    )
    return jax.nn.relu(mapped(x @ w)) * jax.nn.silu(x) * scaled(x, np.arange(8.0, dtype=np.float32))


@jax.custom_vjp
def scaled(x, by):
    return jnp.sin(x) * by[None]


scaled.defvjp(lambda x, by: (scaled(x, by), (x, by)), lambda kept, g: (g * jnp.cos(kept[0]) * kept[1], None))


def printed(count):
    """The plans as they are stored, one a line."""
    limits = {"max_overhead": 0.03}, {"max_overhead": math.inf}, {"max_bytes": 1024 * count}
    plans = [bwsk_jax.plan_scan(*couplings_to_scan(count), **limit) for limit in limits]
    plans += [
        bwsk_jax.plan(with_parameters_that_print_addresses, HALF, struct(8, 8), **limit) for limit in limits
    ]
    return [plan.to_json() for plan in plans]


if __name__ == "__main__":
    print(*printed(int(sys.argv[1])), sep="\n")
