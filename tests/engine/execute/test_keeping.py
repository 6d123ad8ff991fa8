"""What is kept of narrow floats takes their width on a CPU too, and second derivatives go through it."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import bwsk_jax
from bwsk_jax.engine.execute.keeping import Kept, without_floats
from bwsk_jax.engine.program.narrow import is_widened

B, H = 16, 32
NARROW = [jnp.bfloat16, pytest.param(jnp.float8_e5m2, marks=pytest.mark.slow)]
SAVING = functools.partial(bwsk_jax.reversible_scan, max_overhead=0.0)
CARRYING = functools.partial(bwsk_jax.reversible_scan, max_overhead=math.inf, invert=False)


def layer(c, w):
    return c + jnp.tanh(c @ w.astype(c.dtype)), None


def loss(scan, c, weights):
    return scan(layer, c, weights)[0].astype(jnp.float32).sum()


def in_blocks(body, init, weights):
    return lax.scan(bwsk_jax.reversible(body, max_overhead=0.0), init, weights)


def values(dtype, layers=4):
    random = np.random.default_rng(0)
    weights = random.normal(0, H**-0.5, (layers, H, H))
    return jnp.asarray(random.normal(size=(B, H)), dtype), jnp.asarray(weights, jnp.float32)


def temporaries(scan, dtype, layers):
    c, weights = (jax.ShapeDtypeStruct(a.shape, a.dtype) for a in values(dtype, layers))
    compiled = jax.jit(jax.grad(functools.partial(loss, scan))).lower(c, weights).compile()
    memory = compiled.memory_analysis()
    assert memory is not None
    return memory.temp_size_in_bytes


def per_layer(scan, dtype):
    """The slope, to which what a loop needs once does not add."""
    return (temporaries(scan, dtype, 96) - temporaries(scan, dtype, 32)) / 64


WIDENS = is_widened(jax.ShapeDtypeStruct((), jnp.bfloat16))


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("scan", [SAVING, CARRYING])
def test_a_layer_takes_no_more_than_the_plan_counts(scan, dtype):
    """Plain autodiff keeps about as many bytes by their types, and an older XLA three times as many."""
    counted = bwsk_jax.plan_scan(layer, *values(dtype), **scan.keywords).saved_bytes
    assert 0 < per_layer(scan, dtype) <= counted
    assert per_layer(lax.scan, dtype) >= (3 if WIDENS else 1) * counted


@pytest.mark.skipif(not WIDENS, reason="this XLA leaves stacks of bfloat16 as they are")
def test_blocks_in_a_scan_take_less_than_plain_autodiff():
    assert per_layer(in_blocks, jnp.bfloat16) <= 0.7 * per_layer(lax.scan, jnp.bfloat16)


@pytest.mark.parametrize("scan", [SAVING, CARRYING, in_blocks])
@pytest.mark.parametrize("compile_", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_second_derivatives_are_those_of_a_plain_scan(compile_, scan):
    c, weights = values(jnp.bfloat16)

    def second(scan):
        first = compile_(jax.grad(lambda c, w: loss(scan, c, w), (0, 1)))
        norm = lambda *args: sum(jnp.sin(g.astype(jnp.float32)).sum() for g in first(*args))
        return compile_(jax.grad(norm, (0, 1)))(c, weights)

    for ours, plain in zip(second(scan), second(lax.scan), strict=True):
        ours, plain = (np.asarray(a, np.float64) for a in (ours, plain))
        assert np.linalg.norm(plain) > 0
        assert np.linalg.norm(ours - plain) <= 0.02 * np.linalg.norm(plain)


def test_outside_jit_nothing_is_kept_twice():
    c, weights = values(jnp.float8_e5m2)
    _, pull = jax.vjp(lambda c: SAVING(layer, c, weights)[0], c)
    stacked = [a.dtype for a in jax.tree.leaves(pull) if a.shape == (len(weights), *c.shape)]
    assert set(stacked) == {jnp.dtype(jnp.uint8)}
    block = bwsk_jax.reversible(lambda c: jnp.sin(jnp.tanh(c)), max_overhead=0.0)
    _, pull = jax.vjp(block, c)
    assert [a.dtype for a in jax.tree.leaves(pull) if a.size].count(c.dtype) <= 1  # the argument


def test_floats_are_dropped_wherever_they_are():
    kept = Kept([1, 2], {0: 3})
    assert without_floats(([4], (kept, None))) == ([4], (Kept([1, 2], {}), None))
