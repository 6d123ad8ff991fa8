"""NNX modules give and become by our transformations what they do by Flax's own, and by none."""

import functools

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import bwsk_jax
from bwsk_jax.frameworks import nnx as ours
from tests.support.frameworks import (
    LEAST,
    every_limit,
    every_other,
    naming,
    promotion_as_the_libraries_have_it,
)
from tests.support.parity import assert_same, loss_of, random

promotion = promotion_as_the_libraries_have_it()
X = random(0, 4, 6)


class Block(nnx.Module):
    """Has parameters, statistics, dropout, a counter of calls, and an argument to decide by."""

    def __init__(self, rngs):
        self.linear = nnx.Linear(6, 6, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(6, momentum=0.5, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.calls = nnx.Variable(jnp.zeros((), jnp.int32))

    def __call__(self, x, train=True):
        self.calls[...] += 1
        h = self.norm(self.linear(x), use_running_average=not train)
        return x + self.dropout(jnp.tanh(h), deterministic=not train)


def stacked(layers=4):
    return nnx.split_rngs(splits=layers)(nnx.vmap(Block))(nnx.Rngs(0))


def results(call, model, *args):
    """The loss, its gradients for parameters and input, and what the model is afterwards."""
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params, x):
        model = nnx.merge(graph, params, rest, copy=True)
        out = call(model, x, *args)
        return loss_of(out), (out, nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.Param))))

    value = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    out, (params, x) = value(params, X)
    return out, nnx.to_pure_dict(params), x


# --- remat -------------------------------------------------------------------------------------------------


@every_limit
@every_other
def test_a_block_gives_what_remat_and_plain_give(limits, other):
    """Called twice: a counter that stood still would repeat the first mask."""
    twice = lambda block: lambda model, x: block(model, block(model, x))
    found = results(twice(ours.reversible(lambda model, x: model(x), **limits)), Block(nnx.Rngs(0)))
    expected = nnx.remat(lambda model, x: model(x)) if other == "remat" else lambda model, x: model(x)
    assert_same(found, results(twice(expected), Block(nnx.Rngs(0))))


def test_arguments_that_are_no_arrays_stay_as_they_are():
    for train in (True, False):
        found = results(ours.reversible(lambda m, x, train: m(x, train=train)), Block(nnx.Rngs(0)), train)
        assert_same(found, results(lambda m, x, train: m(x, train), Block(nnx.Rngs(0)), train))


def test_modules_and_their_methods_are_taken_too():
    block, plain = Block(nnx.Rngs(0)), Block(nnx.Rngs(0))
    expected = [plain(X), plain(X, train=False)]
    assert_same([ours.reversible(block)(X), ours.reversible(block.__call__)(X, train=False)], expected)
    assert block.calls[...] == 2
    assert_same(nnx.to_pure_dict(nnx.state(block)), nnx.to_pure_dict(nnx.state(plain)))


def test_as_a_decorator_of_a_method():
    class Decorated(Block):
        @ours.reversible(max_overhead=0.1)
        def __call__(self, x):
            return super().__call__(x)

    call = lambda model, x: model(x)
    assert_same(results(call, Decorated(nnx.Rngs(0))), results(call, Block(nnx.Rngs(0))))


def test_a_module_that_two_arguments_share_is_one():
    @ours.reversible
    def both(first, second, x):
        return first(x) + second(x)

    found = results(lambda m, x: both(m, {"again": m}["again"], x), Block(nnx.Rngs(0)))
    assert_same(found, results(lambda m, x: m(x) + m(x), Block(nnx.Rngs(0))))


def test_what_is_new_in_a_module_comes_back():
    @ours.reversible
    def note(model, x):
        model.seen = nnx.Variable(x.sum())
        return model(x)

    block = Block(nnx.Rngs(0))
    note(block, X)
    assert_same(block.seen[...], X.sum())


@pytest.mark.slow
def test_a_block_within_vmap():
    many = random(3, 3, 4, 6)

    def run(block):
        model = Block(nnx.Rngs(0))
        fork = nnx.split_rngs(splits=3)(nnx.vmap(lambda m, rngs, x: block(m, x), in_axes=(None, 0, 0)))
        model.norm.use_running_average = True
        model.dropout.deterministic = True
        frozen = lambda params: fork(nnx.merge(graph, params, rest, copy=True), nnx.Rngs(1), many)
        graph, params, rest = nnx.split(model, nnx.Param, ...)
        return nnx.to_pure_dict(jax.jit(jax.grad(lambda params: loss_of(frozen(params))))(params))

    pure = lambda model, x: model.dropout(jnp.tanh(model.norm(model.linear(x))))
    assert_same(run(ours.reversible(pure)), run(pure))


# --- scan --------------------------------------------------------------------------------------------------


def body(x, model):
    return model(x)


@every_limit
def test_a_scan_gives_what_scan_gives(limits):
    how = {"in_axes": (nnx.Carry, 0), "out_axes": nnx.Carry}
    run = lambda scan: results(lambda m, x: scan(body, **how)(x, m), stacked())
    assert_same(run(functools.partial(ours.reversible_scan, **limits)), run(nnx.scan))


@pytest.mark.parametrize(
    "order", [{"reverse": True}, pytest.param({"unroll": 3}, marks=pytest.mark.slow)], ids=str
)
def test_other_arguments_of_scan(order):
    """Slices along another axis, what is broadcast, and results that are stacked."""

    def layer(model, x, shift, scale):
        y = model(x + shift) * scale
        return y, y.sum(axis=-1)

    how = {"in_axes": (0, nnx.Carry, 1, None), "out_axes": (nnx.Carry, 1), **order}
    shifts, scale = jnp.linspace(0.0, 0.3, 4).reshape(1, 4), jnp.float32(1.5)
    run = lambda scan: results(lambda m, x: scan(layer, **how)(m, x, shifts, scale), stacked())
    assert_same(run(ours.reversible_scan), run(nnx.scan))
    decorated = lambda f, **how: ours.reversible_scan(**how)(f)
    assert_same(run(decorated), run(nnx.scan))


def test_a_module_that_all_iterations_share_is_carried():
    """Its parameters are broadcast, and its state goes on from one iteration to the next."""
    axes = nnx.StateAxes({nnx.Param: None, ...: nnx.Carry})

    def run(scan):
        call = scan(body, in_axes=(nnx.Carry, axes), out_axes=nnx.Carry, length=3)
        return results(lambda m, x: call(x, m), Block(nnx.Rngs(0)))

    found = run(ours.reversible_scan)
    assert_same(found, run(nnx.scan))
    assert found[0][1][1]["calls"] == 3


@pytest.mark.slow
@pytest.mark.parametrize("flags", [{"graph": False}, {"graph_updates": False}], ids=str)
def test_the_other_modes(flags):
    run = lambda wrap: results(wrap(lambda m, x: m(x), **flags), Block(nnx.Rngs(0)))
    assert_same(run(ours.reversible), run(nnx.remat))
    how = {"in_axes": (nnx.Carry, 0), "out_axes": nnx.Carry, **flags}
    run = lambda scan: results(lambda m, x: scan(body, **how)(x, m), stacked())
    assert_same(run(ours.reversible_scan), run(nnx.scan))


def test_what_is_broadcast_is_not_saved_in_each_iteration():
    """NNX carries it along, and `reversible_scan` is not told so."""
    big = jnp.ones((256, 256))

    def temporaries(scan):
        call = scan(
            lambda c, big: jnp.tanh(c @ big), in_axes=(nnx.Carry, None), out_axes=nnx.Carry, length=64
        )
        gradient = jax.jit(jax.grad(lambda x: call(x, big).sum()))
        return gradient.lower(jnp.ones((1, 256))).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(functools.partial(ours.reversible_scan, **LEAST)) < 8 * big.nbytes


# --- refused -----------------------------------------------------------------------------------------------


def test_the_unlifted_function_names_the_lifted_one():
    norm = nnx.BatchNorm(6, rngs=nnx.Rngs(0))
    with naming("nnx.reversible"):
        bwsk_jax.reversible(lambda x: norm(x))(X)
    with naming("nnx.reversible_scan"):
        bwsk_jax.reversible_scan(lambda x, _: (norm(x), None), X, length=2)
