"""Values spread over devices, and mapped axes with names."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import bwsk_jax
from tests.support.parity import INF, INIT, W, X, assert_same, both, gradients, loss_of
from tests.support.scan_bodies import coupling, dense

SCALE = jnp.ones((len(W), X.shape[-1])).at[:, 1].set(0.0)


def layer(c, p):
    """A guarded inverse (of the product), with a replay on either side that crosses devices."""
    w, scale = p
    n = jnp.tanh(lax.ppermute(c @ w, "d", [(0, 0)]))
    return n * scale[None], jnp.sin(jnp.cos(lax.psum(n, "d")))


def normalised(c, p):
    """A batch norm over the axis; the mean is one for all."""
    w, scale = p
    h = c @ w
    mean = lax.pmean(h, "d")
    variance = lax.pmean((h - mean) ** 2, "d")
    return c + jnp.tanh((h - mean) * lax.rsqrt(variance + 1e-5) * scale[None]), mean


def mesh(kind):
    return jax.make_mesh((1,), ("d",), axis_types=(kind,))


def on_devices(fun, check_vma=True):
    specs = {"in_specs": (P("d"), P()), "out_specs": (P("d"), P())}
    return jax.shard_map(fun, mesh=mesh(AxisType.Auto), check_vma=check_vma, **specs)


def compiled_gradients(fun):
    return jax.jit(functools.partial(gradients, fun))(X, (W, SCALE))


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("body", [layer, normalised])
def test_a_scan_on_devices(body, check_vma):
    over = lambda scan: on_devices(lambda x, p: scan(body, x, p), check_vma)
    assert_same(*both(lambda scan: compiled_gradients(over(scan))))


@pytest.mark.parametrize("check_vma", [pytest.param(True, marks=pytest.mark.slow), False])
@pytest.mark.parametrize("fun", [layer, normalised])
def test_a_call_on_devices(fun, check_vma):
    block = lambda x, p: fun(x, jax.tree.map(lambda a: a[0], p))
    ours = bwsk_jax.reversible(block, max_overhead=INF)
    assert_same(*(compiled_gradients(on_devices(f, check_vma)) for f in (ours, block)))


def test_devices_outside_jit():
    loss = lambda scan: lambda w: loss_of(on_devices(lambda x, w: scan(dense, x, w))(X, w))
    assert_same(*both(lambda scan: jax.grad(loss(scan))(W)))


def test_arrays_of_explicit_sharding():
    devices = mesh(AxisType.Explicit)
    spread = lambda a, *axes: jax.device_put(a, NamedSharding(devices, P(*axes)))
    args = jax.tree.map(lambda a: spread(a, "d"), INIT), spread(W)
    loss = lambda scan: lambda i, w: sum(a.sum() for a in scan(coupling, i, w)[0])
    assert_same(*both(lambda scan: jax.jit(jax.grad(loss(scan), (0, 1)))(*args)))


def test_what_crosses_devices_is_replayed_and_not_kept():
    found = []

    def seen(x, p):
        found.append(bwsk_jax.plan_scan(layer, x, p, max_overhead=INF))
        return lax.scan(layer, x, p)

    on_devices(seen)(X, (W, SCALE))
    assert found[0].saved_bytes == X.nbytes


def test_devices_that_talk_in_a_branch_take_the_same():
    scan = functools.partial(bwsk_jax.reversible_scan, layer, max_bytes=X.nbytes)
    grad = jax.grad(lambda x, p: loss_of(on_devices(scan)(x, p)), (0, 1))
    assert "pmax" in str(jax.make_jaxpr(grad)(X, (W, SCALE)))


XS = jnp.stack([X, 2 * X, -X])
NAMED = {
    "the gradient inside": lambda scan: jax.vmap(
        lambda x: jax.grad(lambda p: loss_of(scan(normalised, x, p)))((W, SCALE)), axis_name="d"
    )(XS),
    "the gradient outside": lambda scan: jax.grad(
        lambda x, p: jax.vmap(lambda x: loss_of(scan(normalised, x, p)), axis_name="d")(x).sum(), (0, 1)
    )(XS, (W, SCALE)),
    "inside a loop": lambda scan: jax.grad(
        lambda x: lax.scan(
            lambda a, _: (
                jax.vmap(lambda x: loss_of(scan(normalised, a * x, (W, SCALE))), axis_name="d")(x).sum(),
                None,
            ),
            1.0,
            None,
            length=2,
        )[0]
    )(XS),
    "a result for all": lambda scan: jax.grad(
        lambda p: loss_of(jax.vmap(lambda x: scan(normalised, x, p), axis_name="d", out_axes=(0, None))(XS))
    )((W, SCALE)),
    "an axis outside": lambda scan: jax.grad(
        lambda x: loss_of(
            jax.vmap(jax.vmap(lambda x: scan(normalised, x, (W, SCALE)), axis_name="d"), axis_name="e")(x)
        )
    )(jnp.stack([XS, XS + 1])),
}


@pytest.mark.parametrize("name", NAMED)
def test_a_mapped_axis_with_a_name(name):
    assert_same(*both(lambda scan: jax.jit(lambda: NAMED[name](scan))()))
