"""Each argument of a framework's own transformation has a counterpart, or is refused with a reason."""

import inspect
import subprocess
import sys

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from flax import nnx
from jax import lax
from jax.ad_checkpoint import checkpoint_name

import bwsk_jax
from bwsk_jax import frameworks
from bwsk_jax.frameworks import equinox, exchange, haiku, linen
from bwsk_jax.frameworks import nnx as nnx_siblings
from tests.support.parity import assert_same

OF_JAX = ("prevent_cse", "policy", "concrete")
PAIRS = {
    # sibling: (the framework's own, what is refused, a call that takes the rest)
    linen.reversible: (nn.remat, OF_JAX, lambda **how: linen.reversible(nn.Dense, **how)),
    linen.reversible_scan: (
        nn.scan,
        ("_split_transpose",),
        lambda **how: linen.reversible_scan(nn.LSTMCell, **how),
    ),
    linen.reversible_remat_scan: (
        nn.remat_scan,
        ("policy",),
        lambda lengths=(2,), **how: linen.reversible_remat_scan(nn.Dense, lengths=lengths, **how),
    ),
    nnx_siblings.reversible: (
        nnx.remat,
        ("prevent_cse", "policy"),
        lambda **how: nnx_siblings.reversible(lambda x: x, **how),
    ),
    nnx_siblings.reversible_scan: (
        nnx.scan,
        ("_split_transpose",),
        lambda **how: nnx_siblings.reversible_scan(lambda c, x: (c, x), **how),
    ),
    equinox.reversible: (
        eqx.filter_checkpoint,
        ("prevent_cse", "policy"),
        lambda **how: equinox.reversible(lambda x: x, **how),
    ),
    equinox.reversible_scan: (
        lax.scan,
        ("_split_transpose",),
        lambda **how: equinox.reversible_scan(lambda c, x: (c, x), jnp.zeros(()), jnp.ones(3), **how),
    ),
    haiku.reversible: (jax.remat, OF_JAX, lambda **how: haiku.reversible(lambda x: x, **how)),
    haiku.reversible_scan: (
        hk.scan,
        (),
        lambda **how: haiku.reversible_scan(lambda c, x: (c, x), jnp.zeros(()), jnp.ones(3), **how),
    ),
    haiku.reversible_layer_stack: (
        hk.layer_stack,
        (),
        lambda num_layers=2, **how: haiku.reversible_layer_stack(num_layers, **how),
    ),
}
"""Haiku's `scan` needs a transform, and has none here; what it says of that is not what is asked."""
WHAT_IS_TRANSFORMED = {"target", "f", "fun", "init", "xs"}
ids = lambda pairs: [f"{s.__module__.rpartition('.')[2]}.{s.__name__}" for s in pairs]


def arguments(own):
    """The names of the arguments beside what is transformed, and their defaults."""
    parameters = inspect.signature(own).parameters.values()
    named = [q for q in parameters if q.kind not in (q.VAR_KEYWORD, q.VAR_POSITIONAL)]
    return {q.name: q.default for q in named if q.name not in WHAT_IS_TRANSFORMED}


@pytest.mark.parametrize("sibling", PAIRS, ids=ids(PAIRS))
def test_each_argument_has_a_counterpart_or_is_refused_with_a_reason(sibling):
    own, refused, call = PAIRS[sibling]
    found = arguments(own)
    assert found or own is eqx.filter_checkpoint
    for name, default in found.items():
        if name in refused:
            with pytest.raises(
                TypeError, match=rf"reversible\w*\(\) does not take {name}: (?!there is no)\w"
            ):
                call(**{name: True})
        elif default not in (inspect.Parameter.empty, ()) or name == "static_argnums":
            try:
                call(**{name: default})
            except ValueError as error:
                assert "outside of hk.transform" in str(error)


@pytest.mark.parametrize("sibling", PAIRS, ids=ids(PAIRS))
def test_an_argument_that_nobody_has_is_refused(sibling):
    _, _, call = PAIRS[sibling]
    with pytest.raises(TypeError, match="no_such"):
        call(no_such=1)


@pytest.mark.parametrize("sibling", PAIRS, ids=ids(PAIRS))
def test_two_limits_are_refused_as_the_engine_refuses_them(sibling):
    _, _, call = PAIRS[sibling]
    with pytest.raises(ValueError, match="max_overhead"):
        call(max_overhead=0.1, max_bytes=8)


# --- the exchange of loops ---------------------------------------------------------------------------------


def test_a_loop_that_only_hands_on_part_of_its_carry():
    """And a loop in its body, a literal in its carry, slices and results: all as `lax.scan` has them."""

    def loop(scale, x):
        def body(carry, x):
            fixed, moving, _ = carry
            moving = lax.fori_loop(0, 2, lambda _, m: jnp.sin(m * fixed), moving + x)
            return (fixed, moving, 0), moving[0]

        return lax.scan(body, (scale, jnp.zeros(3), 1), x, reverse=True, unroll=2)

    def loss(call):
        def of(scale, x):
            (_, moving, flag), ys = call(lambda: loop(scale, x))()
            return (moving * ys.sum()).sum() + flag, (moving, ys, flag)

        return jax.value_and_grad(of, argnums=(0, 1), has_aux=True)(jnp.float32(0.5), jnp.ones((5, 3)))

    with jax.numpy_rank_promotion("allow"):
        assert_same(loss(exchange.loops_reversible(max_overhead=0.1)), loss(lambda call: call))


LIMITS = {
    "a policy": {"plan": jax.checkpoint_policies.dots_saveable},
    "save_every": {"save_every": 2},
    "save_names": {"save_names": ("sine",), "max_overhead": bwsk_jax.LEAST_MEMORY},
    "replay_names": {"replay_names": ("sine",)},
}


def gradient_of_loop(run):
    body = lambda c, _: (jnp.sin(checkpoint_name(jnp.sin(c), "sine")), None)
    loop = lambda x: lax.scan(body, x, None, 4)[0]
    return jax.grad(lambda x: run(lambda: loop(x))())(jnp.float32(0.5))


@pytest.mark.parametrize("limit", LIMITS)
def test_a_loop_takes_what_reversible_scan_takes(limit):
    run = exchange.loops_reversible(**LIMITS[limit])
    assert_same(gradient_of_loop(run), gradient_of_loop(lambda call: call))


@pytest.mark.parametrize("names", ["save_names", "replay_names"])
def test_a_loop_hears_names(names):
    with pytest.raises(ValueError, match="cosine"):
        gradient_of_loop(exchange.loops_reversible(**{names: ("cosine",)}))


# --- imports -----------------------------------------------------------------------------------------------


def test_a_framework_is_imported_with_its_siblings_and_not_before():
    code = """
import sys, bwsk_jax, bwsk_jax.engine
from bwsk_jax import frameworks, reversible, reversible_scan
imported = lambda: {"flax.linen", "flax.nnx", "equinox", "haiku"} & set(sys.modules)
assert not imported()
frameworks.equinox.reversible
assert imported() == {"equinox"}
frameworks.linen.reversible, frameworks.nnx.reversible, frameworks.haiku.reversible
assert len(imported()) == 4
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_modules_are_listed():
    assert {"linen", "nnx", "equinox", "haiku"} <= set(dir(frameworks))
    with pytest.raises(AttributeError, match="no attribute 'torch'"):
        _ = frameworks.torch
    assert bwsk_jax.frameworks is frameworks
