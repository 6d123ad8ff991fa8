"""What a training job does with a gradient besides calling it: export it, keep it compiled, call it again."""

import functools
import gc
import os
import subprocess
import sys
import weakref
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import bwsk_jax
from tests.support.parity import INF, INIT, H, L, W, X, assert_same, loss_of
from tests.support.scan_bodies import coupling

LIMITS = {"default": {}, "least memory": {"max_overhead": INF}, "few bytes": {"max_bytes": X.nbytes}}


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
    elif limit == "few bytes":
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


STRETCHES = [(12, 3), (12, 4), (12, 7), (7, 2), (7, 3)]


@pytest.mark.parametrize("limit", [pytest.param("default", marks=pytest.mark.slow), "least memory"])
@pytest.mark.parametrize("body", [two_sided, swapping], ids=["coupling", "swapping"])
@pytest.mark.parametrize(
    ("length", "every"), [(12, 5), *(pytest.param(*s, marks=pytest.mark.slow) for s in STRETCHES)]
)
def test_keeping_carries_takes_no_memory_but_theirs(length, every, body, limit):
    """Above all it does not copy the weights, which take ten times the memory of the temporaries."""
    kept = (length - 1) // every * 2 * 64 * 256 * 4
    allowed = 1.1 * temporaries(body, limit, length, None) + kept
    assert temporaries(body, limit, length, every) <= allowed


# --- calls outside jit --------------------------------------------------------------------------------------


def repeatable(name, trace):
    """A loss that is called outside `jit` twice with the same function, which `trace` notes each trace of."""
    if name == "scan":

        def body(c, w):
            trace()
            return coupling(c, w)

        return lambda scan: lambda w: loss_of(scan(body, INIT, w)[0])

    def block(w):
        trace()
        if name == "a call with a guard":
            return scaled(X, (w[0], jnp.ones((1, H))))[0]
        return coupling(INIT, w[0])[0]

    ours = bwsk_jax.reversible(block, max_overhead=INF)
    plain = jax.checkpoint(block)
    return lambda scan: lambda w: loss_of((plain if scan is lax.scan else ours)(w))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("scan", {}),
        ("scan", {"save_every": 2}),
        ("scan", {"max_overhead": INF, "invert": False}),
        ("a call", {}),
        ("a call with a guard", {}),
    ],
)
def test_a_second_call_outside_jit_traces_and_compiles_nothing(name, options, caplog):
    traces = []
    scan = functools.partial(bwsk_jax.reversible_scan, **options)
    loss = repeatable(name, lambda: traces.append(1))(scan)
    first = jax.value_and_grad(loss)(W), loss(W)
    done = len(traces)
    with jax.log_compiles(True):
        second = jax.value_and_grad(loss)(W), loss(W)
    assert done and len(traces) == done
    assert not [record for record in caplog.records if "Compiling" in record.getMessage()]
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_compilations_are_noticed(caplog):
    with jax.log_compiles(True):
        jax.jit(lambda w: w + 1)(W)
    assert [record for record in caplog.records if "Compiling" in record.getMessage()]


@pytest.mark.parametrize("name", ["scan", "call"])
def test_other_values_that_are_closed_over_are_seen(name):
    """Arrays and tracers, which are others in each call, of functions that are traced alike."""

    def loss(scale, scan):
        if name == "scan":
            return loss_of(scan(lambda c, w: coupling(c, w * scale), INIT, W)[0])
        block = lambda x: coupling((x, x + 1), W[0] * scale)[0]
        return loss_of((jax.checkpoint if scan is lax.scan else bwsk_jax.reversible)(block)(X))

    for scale in (0.5, 1.0, 2.0):
        pairs = [
            (loss(jnp.float32(scale), scan), jax.grad(loss)(scale, scan))
            for scan in (bwsk_jax.reversible_scan, lax.scan)
        ]
        assert_same(*pairs)


def test_the_types_options_and_context_of_a_call_are_its_own():
    body = lambda c, w: (c + jnp.tanh(c @ w), c.sum())
    loss = lambda scan, **options: lambda x, w: loss_of(scan(body, x, w, **options))
    for length in (2, 3):
        for options in ({}, {"max_overhead": INF}, {"save_every": 2}, {"invert": False}):
            args = X[:length], W[:length]
            ours = jax.grad(loss(bwsk_jax.reversible_scan, **options), (0, 1))(*args)
            assert_same(ours, jax.grad(loss(lax.scan), (0, 1))(*args))
    with jax.enable_x64(True):
        args = jax.tree.map(lambda a: jnp.asarray(np.asarray(a, np.float64)), (X, W))
        ours = jax.grad(loss(bwsk_jax.reversible_scan), (0, 1))(*args)
        assert_same(ours, jax.grad(loss(lax.scan), (0, 1))(*args), 1e-12)


def test_what_is_remembered_goes_with_the_function():
    def use():
        constant = jnp.full((H, H), 0.25)
        body = lambda c, w: coupling(c, w + constant)
        block = lambda w: jnp.tanh(w @ constant)
        loss = lambda w: loss_of((bwsk_jax.reversible_scan(body, INIT, w), bwsk_jax.reversible(block)(w)))
        jax.grad(loss)(W)
        return [weakref.ref(body), weakref.ref(block), weakref.ref(constant)]

    used = use()
    gc.collect()
    assert [reference() for reference in used] == [None] * 3
