"""What a training job does with a gradient besides calling it: export it, keep it compiled, call it again."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import bwsk_jax
from tests.support.parity import INF, INIT, H, L, W, X, assert_same, loss_of
from tests.support.scan_bodies import coupling

LIMITS = {"default": {}, "least memory": {"max_overhead": INF}}


def scaled(c, layer):
    """A layer whose inverse divides by `gamma`, needs a guard, and saves the product."""
    w, gamma = layer
    return jnp.tanh(c @ w) * gamma, None


SCANS = {
    "a coupling, which is inverted": (coupling, INIT, W),
    "a learnt scale, which has a guard": (scaled, X, (W, jnp.ones((L, 1, H)))),
}


def gradient(scan, body):
    return jax.grad(lambda init, xs: loss_of(scan(body, init, xs)[0]), (0, 1))


# --- export and the compilation cache -----------------------------------------------------------------------


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("name", SCANS)
def test_a_gradient_can_be_exported(name, limit):
    body, init, xs = SCANS[name]
    plan = bwsk_jax.plan_scan(body, init, xs, **LIMITS[limit])
    if body is coupling:
        assert plan.inexact
    elif limit == "least memory":
        assert plan.guarded_steps
    grad = jax.jit(gradient(functools.partial(bwsk_jax.reversible_scan, **LIMITS[limit]), body))
    stored = jax.export.export(grad)(init, xs).serialize()
    again = jax.export.deserialize(stored).call(init, xs)
    jax.tree.map(np.testing.assert_array_equal, again, grad(init, xs))
    assert_same(again, gradient(lax.scan, body)(init, xs))


CACHED = """
import jax
from jax import lax
import bwsk_jax
from tests.engine.execute.test_real_jobs import SCANS, gradient

for k, (body, init, xs) in enumerate(SCANS.values()):
    for name, scan in (("ours", bwsk_jax.reversible_scan), ("plain", lax.scan)):
        def compiled(init, xs):
            return gradient(scan, body)(init, xs)
        compiled.__name__ = f"{name}_{k}"
        jax.block_until_ready(jax.jit(compiled)(init, xs))
"""


def test_a_compiled_gradient_is_kept_as_that_of_lax_scan_is(tmp_path):
    """By one process, with what the next one finds."""

    def kept(seed):
        environment = {
            "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            "PYTHONHASHSEED": seed,
            "PYTHONPATH": str(Path(__file__).parents[3]),
        }
        subprocess.run([sys.executable, "-c", CACHED], check=True, env=os.environ | environment)
        return sorted(file.name for file in tmp_path.glob("jit_*-cache"))

    first = kept("0")
    for k in range(len(SCANS)):
        for name in ("ours", "plain"):
            assert len([file for file in first if file.startswith(f"jit_{name}_{k}-")]) == 1
    assert kept("1") == first


# --- memory ------------------------------------------------------------------------------------------------


def two_sided(c, w):
    a = c[0] + jnp.tanh(c[1] @ w[0])
    return (a, c[1] + jnp.tanh(a @ w[1])), None


def swapping(c, w):
    return (c[0] + jnp.tanh(c[1] @ w[0]), jnp.tanh(c[0] @ w[1])), None


@functools.cache
def temporaries(body, limit, length, every):
    """Bytes that the compiled gradient of a stack needs beside its arguments and results."""
    half = jax.ShapeDtypeStruct((64, 256), jnp.float32)
    weights = jax.ShapeDtypeStruct((length, 2, 256, 256), jnp.float32)
    scan = functools.partial(bwsk_jax.reversible_scan, save_every=every, **LIMITS[limit])
    compiled = jax.jit(gradient(scan, body)).lower((half, half), weights).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("body", [two_sided, swapping], ids=["coupling", "swapping"])
@pytest.mark.parametrize(("length", "every"), [(12, 3), (12, 4), (12, 5), (12, 7), (7, 2), (7, 3)])
def test_keeping_carries_takes_no_memory_but_theirs(length, every, body, limit):
    """Above all it does not copy the weights, which take ten times the memory of the temporaries."""
    kept = (length - 1) // every * 2 * 64 * 256 * 4
    allowed = 1.1 * temporaries(body, limit, length, None) + kept
    assert temporaries(body, limit, length, every) <= allowed
