"""Haiku modules give by our transformations what they give by Haiku's own, and by none."""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import pytest

import bwsk_jax
from bwsk_jax.frameworks import haiku as ours
from tests.support.frameworks import (
    LEAST,
    agree,
    every_limit,
    every_other,
    naming,
    promotion_as_the_libraries_have_it,
)
from tests.support.parity import assert_same, loss_of, random

promotion = promotion_as_the_libraries_have_it()
X = random(0, 4, 6)
KEY, SEED = jax.random.key(0), jax.random.key(1)


class Block(hk.Module):
    """Has parameters, statistics, a counter, dropout, and an argument to decide by."""

    def __call__(self, x, train=True):
        calls = hk.get_state("calls", (), jnp.int32, init=jnp.zeros)
        hk.set_state("calls", calls + 1)
        h = hk.Linear(6, with_bias=False)(x)
        h = hk.BatchNorm(True, True, 0.5)(h, is_training=train or hk.running_init())
        h = jnp.tanh(h)
        return x + (hk.dropout(hk.next_rng_key(), 0.5, h) if train else h)


def both(ours, plain):
    """Parameters, state, results, gradients and changed state are the same."""
    found, expected = map(hk.transform_with_state, (ours, plain))
    start = expected.init(KEY, X)
    assert_same(found.init(KEY, X), start)
    agree(results(found, start[1]), results(expected, start[1]), start[0], X)


def results(network, state):
    def loss(params, x):
        out, changed = network.apply(params, state, SEED, x)
        return loss_of(out), (out, changed)

    return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)


# --- remat -------------------------------------------------------------------------------------------------


@every_limit
@every_other
def test_a_block_gives_what_remat_and_plain_give(limits, other):
    """Two blocks, with a key drawn between them."""

    def network(wrap, x):
        first, second = Block(name="first"), Block(name="second")
        x = wrap(first)(x)
        x = hk.dropout(hk.next_rng_key(), 0.2, x)
        return wrap(second)(x)

    by = lambda wrap: functools.partial(network, wrap)
    expected = hk.remat if other == "remat" else lambda block: block
    both(by(functools.partial(ours.reversible, **limits)), by(expected))


def test_arguments_that_are_no_arrays_stay_as_they_are():
    both(lambda x: ours.reversible(max_overhead=0.1)(Block())(x, train=False), lambda x: Block()(x, False))


def test_without_a_transform_there_is_nothing_to_lift():
    gradient = lambda wrap: jax.grad(lambda x: loss_of(wrap(lambda x: jnp.sin(jnp.exp(x)))(x)))(X)
    assert_same(gradient(ours.reversible), gradient(lambda f: f))


@pytest.mark.slow
def test_a_block_within_vmap():
    found, expected = (
        hk.transform_with_state(lambda x, w=w: w(Block())(x)) for w in (ours.reversible, hk.remat)
    )
    params, state = expected.init(KEY, X)
    mapped = lambda network: jax.vmap(results(network, state), in_axes=(None, 0))
    agree(mapped(found), mapped(expected), params, random(3, 3, 4, 6))


# --- scans -------------------------------------------------------------------------------------------------


def recurrent(scan, x, **how):
    linear = hk.Linear(6)

    def cell(h, x):
        h = jnp.tanh(linear(h) + x)
        h = hk.dropout(hk.next_rng_key(), 0.2, h)
        hk.set_state("seen", hk.get_state("seen", (), init=jnp.zeros) + h.sum())
        return h, h

    return scan(cell, jnp.zeros(6), x, **how)


@pytest.mark.slow
@every_limit
def test_a_scan_gives_what_scan_gives(limits):
    scan = functools.partial(ours.reversible_scan, **limits)
    both(functools.partial(recurrent, scan), functools.partial(recurrent, hk.scan))


@pytest.mark.slow
@pytest.mark.parametrize("how", [{"reverse": True}, {"unroll": 2}, {"length": 4}], ids=str)
def test_other_arguments_of_scan(how):
    both(*(functools.partial(recurrent, scan, **how) for scan in (ours.reversible_scan, hk.scan)))


@every_limit
def test_a_stack_of_layers_gives_what_layer_stack_gives(limits):
    by = lambda stack: lambda x: stack(4)(lambda x: Block()(x))(x)
    both(by(functools.partial(ours.reversible_layer_stack, **limits)), by(hk.layer_stack))


@pytest.mark.slow
def test_other_arguments_of_layer_stack():
    def network(stack, x):
        def layer(x, shift, reverse=False):
            y = jnp.tanh(hk.Linear(6)(x + shift)) * (2 if reverse else 1)
            return y, y.sum()

        how = {"unroll": 2, "pass_reverse_to_layer_fn": True, "name": "stack"}
        layers = stack(4, with_per_layer_inputs=True, **how)
        return layers(layer)(x, jnp.linspace(0.0, 0.3, 4), reverse=True)

    both(*(functools.partial(network, stack) for stack in (ours.reversible_layer_stack, hk.layer_stack)))


# --- refused -----------------------------------------------------------------------------------------------


def test_the_unlifted_function_names_the_lifted_one():
    network = hk.transform(lambda x: bwsk_jax.reversible(hk.Linear(3), **LEAST)(x))
    with naming("haiku.reversible"):
        network.init(KEY, X)
