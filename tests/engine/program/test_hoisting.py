"""What an iteration computes of constants alone is computed and kept once."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import bwsk_jax
from bwsk_jax.engine.program.scan_body import trace_iteration
from tests.support.parity import LEAST, assert_same, gradients, random

C, K = random(1, 3, 4), random(2, 3, 4)
KEY = jax.random.key(0)
spread = lambda k: jnp.broadcast_to(k[:, :, None], (*k.shape, 9))
BODIES = {
    "functions of constants": (lambda k, c: jnp.sin(c * jnp.exp(-k) + jnp.cos(k)), ["neg", "exp", "cos"]),
    "what is moved stays": (lambda k, c: c @ k.T.astype(jnp.bfloat16).astype(c.dtype) @ k, []),
    "what grows stays": (lambda k, c: c * jnp.exp(spread(k)).sum(-1), ["reduce_sum"]),
    "what was moved on the way": (lambda k, c: c @ jnp.exp(k.T) @ k, ["exp"]),
    "of nothing": (lambda k, c: jnp.where(jnp.arange(4) > 1, c, 0.0) * k, []),
    "keys": (lambda k, c: c * jax.random.normal(jax.random.fold_in(KEY, 1), k.shape), ["random_fold_in"]),
    "what is read by the result alone": (lambda k, c: c * 0 + jnp.sqrt(2 + k), ["add", "sqrt"]),
    "a custom derivative": (lambda k, c: c * jax.nn.softplus(k), ["custom_jvp_call"]),
}


def scanned(scan, function):
    return lambda k, c: scan(lambda c, x: (function(k, c) + x, c), c, jnp.ones((5, *c.shape)))


@pytest.mark.parametrize("name", BODIES)
def test_what_depends_on_constants_alone_is_hoisted(name):
    function, expected = BODIES[name]
    body = trace_iteration(lambda c, x: (function(K, c), None), C, C)
    made = set(body.before.outputs) - set(body.before.inputs)
    needed = body.before.needed(sorted(made))
    assert {str(e.primitive) for e in needed if made.intersection(e.outputs)} <= set(expected)
    assert set(expected) <= {str(e.primitive) for e in needed}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("limit", [None, bwsk_jax.LEAST_MEMORY])
@pytest.mark.parametrize("how", [lambda f: f, jax.jit], ids=["eager", "compiled"])
def test_gradients_are_those_of_lax_scan(name, limit, how):
    function, _ = BODIES[name]
    scan = functools.partial(bwsk_jax.reversible_scan, max_overhead=limit)
    ours, plain = (how(functools.partial(gradients, scanned(s, function)))(K, C) for s in (scan, lax.scan))
    assert_same(ours, plain)


def test_second_derivatives_and_maps_over_the_constants():
    function, _ = BODIES["functions of constants"]

    def hessians(scan):
        loss = lambda k: jnp.sum(scanned(scan, function)(k, C)[0] ** 2)
        return jax.vmap(jax.hessian(loss))(jnp.stack([K, 2 * K]))

    assert_same(hessians(LEAST), hessians(lax.scan))


def test_what_communicates_or_has_effects_stays():
    printed = trace_iteration(lambda c, x: (jax.debug.print("{}", K) or c * K, None), C, C)
    assert not printed.before.equations
    mapped = lambda k: bwsk_jax.reversible_scan(lambda c, x: (c * lax.psum(k, "i") + x, None), C, K[None])[0]
    found = jax.vmap(mapped, axis_name="i")(jnp.stack([K, K]))
    assert_same(found, jnp.stack([C * 2 * K + K] * 2))


def test_constants_of_many_iterations_take_no_more_than_in_lax_scan():
    function, _ = BODIES["functions of constants"]

    def temporaries(scan):
        loss = lambda k, c: jnp.sum(scan(lambda c, _: (function(k, c), None), c, length=20)[0])
        shape = jax.ShapeDtypeStruct((64, 64), jnp.float32)
        return jax.jit(jax.grad(loss)).lower(shape, shape).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(bwsk_jax.reversible_scan) <= 1.05 * temporaries(lax.scan)
