"""How long planning takes: a transformer layer in seconds, and a bound for what is too large to solve."""

import math
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from bwsk_jax.engine.plan.plan import Limit, check_plan
from bwsk_jax.engine.plan.problem import call_problem, scan_problem
from bwsk_jax.engine.plan.solver import solve
from bwsk_jax.engine.program import jaxprs
from bwsk_jax.engine.program.scan_body import trace_iteration
from bwsk_jax.engine.program.vjp import trace_vjp

INF = math.inf
struct = lambda *shape, dtype=jnp.float32: jax.ShapeDtypeStruct(shape, dtype)
HALF, SQUARE = struct(4, 8), struct(8, 8)


def layer_norm(x, scale, shift):
    mean = x.mean(-1, keepdims=True)
    var = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) * lax.rsqrt(var + 1e-12) * scale + shift


def dropout(x, key):
    return jnp.where(jax.random.bernoulli(key, 0.9, x.shape), x / 0.9, 0.0).astype(x.dtype)


def transformer_layer(x, inputs):
    p, key = inputs
    k1, k2, k3 = jax.random.split(key, 3)
    q, k, v = jnp.einsum("bth,hsnd->sbntd", x, p["qkv"]) + p["bqkv"][:, None, :, None, :]
    probs = dropout(jax.nn.softmax(jnp.einsum("bntd,bnsd->bnts", q, k) / np.sqrt(q.shape[-1]), -1), k1)
    context = jnp.einsum("bnts,bnsd->btnd", probs, v)
    h = layer_norm(x + dropout(jnp.einsum("btnd,ndh->bth", context, p["wo"]) + p["bo"], k2), p["g1"], p["b1"])
    f = jax.nn.gelu(h @ p["w1"] + p["c1"], approximate=False) @ p["w2"] + p["c2"]
    return layer_norm(h + dropout(f, k3), p["g2"], p["b2"]), None


def transformer_inputs(hidden=64, heads=4):
    d = hidden // heads
    shapes = {"qkv": (hidden, 3, heads, d), "bqkv": (3, heads, d), "wo": (heads, d, hidden), "bo": (hidden,)}
    shapes |= {"g1": (hidden,), "b1": (hidden,), "g2": (hidden,), "b2": (hidden,)}
    shapes |= {"w1": (hidden, 4 * hidden), "c1": (4 * hidden,), "w2": (4 * hidden, hidden), "c2": (hidden,)}
    return struct(2, 32, hidden), (
        {k: struct(*s) for k, s in shapes.items()},
        jax.eval_shape(lambda: jax.random.key(0)),
    )


@pytest.mark.parametrize("limit", [Limit(), Limit(INF)], ids=["default", "least memory"])
def test_a_transformer_layer_plans_in_two_seconds(limit):
    with jax.numpy_rank_promotion("allow"):
        found = scan_problem(trace_iteration(transformer_layer, *transformer_inputs()), 12)
    start = time.process_time()
    solve([found], limit)
    assert time.process_time() - start < 2.0


def long_chain(x, w):
    for k in range(250):
        x = (jnp.tanh(x) @ w if k % 5 == 0 else jnp.sin(x) * (1.0 + k / 250)) + x * 0.5
    return x


@pytest.mark.slow
@pytest.mark.parametrize(
    "limit", [Limit(), Limit(INF), Limit(None, 40_000)], ids=["default", "least memory", "bytes"]
)
@pytest.mark.parametrize("scan", [False, True], ids=["call", "scan"])
def test_a_thousand_equations_plan_in_twenty_seconds_or_say_how_good_they_are(limit, scan):
    if scan:
        found = scan_problem(trace_iteration(lambda c, w: (long_chain(c, w), None), HALF, SQUARE))
    else:
        found = call_problem(_traced(long_chain, HALF, SQUARE))
    assert len(found.program.equations) >= 1000
    start = time.process_time()  # what a busy machine does meanwhile is not counted
    plan = solve([found], limit)
    assert time.process_time() - start < 20.0
    assert plan.gap >= 0.0
    check_plan(plan)


def _traced(fun, *args):
    return trace_vjp(jaxprs.trace(fun, *args)[0])
