"""A report descends into loops, conditionals and calls, and is the same however a function is written."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from bwsk_jax import classify
from tests.support.kinds import X


def stacked(x, ws):
    return lax.scan(lambda c, w: (jnp.tanh(c @ w) + c, None), x, ws)[0]


def unrolled(x, ws):
    for w in ws:
        x = jnp.tanh(x @ w) + x
    return x


def test_a_scan_counts_its_body_as_often_as_it_runs():
    ws = jnp.ones((5, 8, 8))
    scanned, written_out = classify(stacked, X, ws, wrt=0), classify(unrolled, X, ws, wrt=0)
    inside = [line for line in scanned.lines if line.depth == 1]
    assert [line.primitive for line in inside] == ["dot_general", "tanh", "add"]
    assert {(line.repeats, line.parent) for line in inside} == {(5, 0)}
    assert scanned.lines[0].kind == "B" and scanned.combinators["S"] == 15
    slices = {"slice", "squeeze", "dynamic_slice", "unstack", "split"}
    same = [line.kind for line in written_out.lines if line.primitive not in slices]
    assert same == [line.kind for line in inside] * 5


def test_a_loop_that_never_runs_is_looked_into():
    add = lambda x: lax.scan(lambda c, y: (c + jnp.tanh(y), None), jnp.zeros(8), x)[0]
    report = classify(add, jax.ShapeDtypeStruct((0, 8), jnp.float32))
    assert report.rounds == {1: 0} and "scan x 0" in str(report)
    nested = classify(lambda xs: lax.map(add, xs), jax.ShapeDtypeStruct((0, 3, 8), jnp.float32))
    assert nested.combinators["S"] == 0 and str(nested)


@jax.custom_vjp
def cube(x):
    return x * 3.0


cube.defvjp(lambda x: (x * 3.0, None), lambda _, ct: (3.0 * ct,))


@jax.custom_jvp
def third(x):
    return x / 3.0


third.defjvp(lambda primals, tangents: (third(*primals), tangents[0] / 3.0))

MESH = Mesh(np.array(jax.devices()[:1]), ("i",))
WRAPPERS = {
    "jit": (jax.jit, 0),
    "remat": (jax.checkpoint, 0),
    "custom_vjp": (lambda f: lambda x: f(cube(x) / 3.0), 0),
    "custom_jvp": (lambda f: lambda x: f(third(x) * 3.0), 0),
    "cond": (lambda f: lambda x: lax.cond(x[0, 0] > 0, f, lambda x: x, x), 1),
    "while": (lambda f: lambda x: lax.while_loop(lambda c: c.sum() < 9, f, x), 1),
    "scan": (lambda f: lambda x: lax.scan(lambda c, _: (f(c), None), x, None, length=3)[0], 1),
    "shard_map": (
        lambda f: jax.shard_map(f, mesh=MESH, in_specs=PartitionSpec("i"), out_specs=PartitionSpec("i")),
        1,
    ),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_every_construct_is_descended_into(name):
    wrap, depth = WRAPPERS[name]
    report = classify(wrap(lambda x: jnp.exp(jnp.sin(x))), X)
    found = {line.primitive: (line.kind, line.depth) for line in report.lines}
    assert found["exp"] == ("S", depth) and found["sin"] == ("K", depth)
    assert [line.number for line in report.lines] == list(range(len(report.lines)))
    for line in report.lines:
        assert line.depth == 0 or report.lines[line.parent].kind == "B"


def test_what_crosses_devices_is_classed():
    spread = jax.shard_map(
        lambda x: lax.psum(jnp.exp(x), "i"), mesh=MESH, in_specs=PartitionSpec("i"), out_specs=PartitionSpec()
    )
    (line,) = [line for line in classify(spread, X).lines if line.primitive.startswith("psum")]
    assert (line.kind, line.why) == ("K", "many devices' values become one")
