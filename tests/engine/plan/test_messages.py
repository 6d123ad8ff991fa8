"""What devices send each other is not sent again where a little memory spares it."""

import functools
import re

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

import bwsk_jax

LAYERS, BATCH, WIDTH, MODEL = 2, 8, 32, 4


def normalised(x):
    return (x - x.mean(-1, keepdims=True)) * lax.rsqrt(x.var(-1, keepdims=True) + 1e-5)


def layer(x, weights):
    """Two pairs of products, each split by the columns of one and the rows of the other."""
    for up, down in weights:
        x = normalised(x + lax.psum(jnp.tanh(x @ up) @ down, "model"))
    return x, None


def all_reduces(scan):
    """How often devices sum over `model` in the gradient of two layers on data x model."""
    mesh = jax.make_mesh((2, MODEL), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    weights = [(jnp.ones((LAYERS, WIDTH, 4 * WIDTH)) / 64, jnp.ones((LAYERS, 4 * WIDTH, WIDTH)) / 64)] * 2
    specs = [(P(None, None, "model"), P(None, "model", None))] * 2

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=(P("data"), specs), out_specs=P())
    def loss(x, weights):
        x, _ = scan(layer, x, weights)
        return lax.pmean((x**2).mean(), "data")

    text = str(jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(jnp.ones((BATCH, WIDTH)), weights))
    return len(re.findall(r"psum\w*\[[^\]]*'?model'?", text))


@pytest.mark.parametrize("options", [{}, {"max_overhead": 0.1}])
def test_a_plan_sends_no_more_than_plain_autodiff(options):
    plain = all_reduces(lax.scan)
    again = all_reduces(lambda f, init, xs: lax.scan(jax.checkpoint(f), init, xs))
    assert plain < again
    assert all_reduces(functools.partial(bwsk_jax.reversible_scan, **options)) == plain
