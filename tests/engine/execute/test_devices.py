"""A gradient over several devices is that of `lax.scan` on one."""

import functools
import re

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import bwsk_jax
from tests.support.parity import INF, L, assert_same, loss_of, random
from tests.support.scan_bodies import coupling

DEVICES = 4
BATCH, WIDTH = 8, 4
HIDDEN = random(1, BATCH, WIDTH), random(2, BATCH, WIDTH)
WEIGHTS = random(0, L, WIDTH, WIDTH)
OPTIONS = {
    "default": {},
    "least memory": {"max_overhead": INF},
    "every other": {"max_overhead": INF, "save_every": 2},
    "replaying": {"max_overhead": INF, "invert": False},
}


def mesh_of(axis_type):
    return jax.make_mesh((DEVICES,), ("data",), axis_types=(axis_type,))


def normalised(c, w):
    """A layer with a guard and, over the devices, a collective: all decide alike which schedule runs."""
    h = c[0] + jnp.tanh(c[1] @ w)
    scale = lax.rsqrt(lax.pmean(jnp.mean(h * h), "data") + 1e-3)
    return (c[1] * w[0, 0], h * scale), None


def gradient(scan, body):
    return jax.grad(lambda weights, hidden: loss_of(scan(body, hidden, weights)[0]), (0, 1))


@pytest.fixture(scope="module", autouse=True)
def devices():
    assert jax.device_count() >= DEVICES, "the tests simulate several devices: see tests/conftest.py"


@pytest.mark.parametrize(
    "checked",
    [pytest.param(True, id="checked"), pytest.param(False, id="unchecked", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize(
    ("body", "options"), [*((coupling, options) for options in OPTIONS), (normalised, "least memory")]
)
def test_under_shard_map(options, checked, body):
    mesh, data = mesh_of(AxisType.Auto), PartitionSpec("data")

    def total_gradient(scan):
        def shard(weights, hidden):
            of_weights, of_hidden = gradient(scan, body)(weights, hidden)
            # Where JAX checks what varies, the gradient of what all devices share is summed already.
            return of_weights if checked else lax.psum(of_weights, "data"), of_hidden

        specs = {"in_specs": (PartitionSpec(), data), "out_specs": (PartitionSpec(), data)}
        return jax.jit(jax.shard_map(shard, mesh=mesh, **specs, check_vma=checked))(WEIGHTS, HIDDEN)

    ours = total_gradient(functools.partial(bwsk_jax.reversible_scan, **OPTIONS[options]))
    assert_same(ours, total_gradient(lax.scan))


@pytest.mark.parametrize("options", ["default", "least memory"])
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
def test_of_sharded_arrays(options, axis_type):
    mesh = mesh_of(axis_type)
    with jax.set_mesh(mesh):
        hidden = jax.device_put(HIDDEN, NamedSharding(mesh, PartitionSpec("data")))
        weights = jax.device_put(WEIGHTS, NamedSharding(mesh, PartitionSpec()))
        scan = functools.partial(bwsk_jax.reversible_scan, **OPTIONS[options])
        ours = jax.jit(gradient(scan, coupling))(weights, hidden)
        assert len(ours[1][0].sharding.device_set) == DEVICES
    assert_same(ours, gradient(lax.scan, coupling)(WEIGHTS, HIDDEN))


def in_loops(compiled):
    """The collectives in the bodies of loops."""
    bodies = set(re.findall(r"body=%?([\w.\-]+)", compiled.as_text()))
    computations = re.split(r"\n(?=%?[\w.\-]+ \(|ENTRY )", compiled.as_text())
    return [
        line
        for text in computations
        if text.lstrip("%").split(" ")[0] in bodies
        for line in text.splitlines()
        if re.search(r" (all-reduce|all-gather|collective-permute|all-to-all)(-start)?\(", line)
    ]


def test_a_body_is_traced_on_the_mesh_of_the_carry():
    """A function may go by it, such as one that works in blocks which no device has to send for."""
    seen = []

    def body(c, w):
        seen.append(jax.typeof(c).sharding.mesh.size)
        return c @ w, None

    mesh = mesh_of(AxisType.Auto)
    hidden = jax.device_put(HIDDEN[0], NamedSharding(mesh, PartitionSpec("data")))
    jax.jit(lambda c: bwsk_jax.reversible_scan(body, c, WEIGHTS)[0]).lower(hidden)
    assert set(seen) == {DEVICES}


def test_the_guard_does_not_communicate_in_the_loops():
    scales = 1.0 + 0.1 * random(3, L, WIDTH)

    def layer(c, x):
        w, scale = x
        return jnp.tanh(c @ w) * scale[None], None

    plan = bwsk_jax.plan_scan(layer, HIDDEN[0], (WEIGHTS, scales), max_bytes=HIDDEN[0].nbytes)
    assert plan.fallback is not None

    def of(hidden, xs):
        scan = functools.partial(bwsk_jax.reversible_scan, plan=plan)
        return jax.grad(lambda h: loss_of(scan(layer, h, xs)[0]))(hidden)

    sharded = NamedSharding(mesh_of(AxisType.Auto), PartitionSpec("data"))
    compiled = jax.jit(of, in_shardings=(sharded, None)).lower(HIDDEN[0], (WEIGHTS, scales)).compile()
    assert " all-reduce(" in compiled.as_text()  # of the verdicts, after the loop
    assert not in_loops(compiled)
