"""Equinox modules give by our transformations what they give by Equinox's own, and by none."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from bwsk_jax.frameworks import equinox as ours
from tests.support.frameworks import LEAST, every_limit, every_other, promotion_as_the_libraries_have_it
from tests.support.parity import assert_same, loss_of, random

promotion = promotion_as_the_libraries_have_it()
X = random(0, 4, 6)
KEY = jax.random.key(0)


class Block(eqx.Module):
    """Has parameters, statistics, dropout, an activation function and a number that decides."""

    linear: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout
    activation: object
    scale: float

    def __init__(self, key):
        self.linear = eqx.nn.Linear(6, 6, use_bias=False, key=key)
        self.norm = eqx.nn.BatchNorm(6, axis_name="batch", mode="batch")
        self.dropout = eqx.nn.Dropout(0.5)
        self.activation = jnp.tanh
        self.scale = 1.5

    def __call__(self, x, state, *, key):
        h, state = self.norm(self.linear(x), state)
        h = self.dropout(self.activation(h), key=key)
        return (x + self.scale * h if self.scale > 1 else x), state


def over_a_batch(call):
    """The loss, its gradients for the module and the input, and the state that comes back."""
    block, state = eqx.nn.make_with_state(Block)(KEY)
    keys = jax.random.split(jax.random.key(1), 4)

    @eqx.filter_jit
    @functools.partial(eqx.filter_value_and_grad, has_aux=True)
    def loss(varied):
        block, x = varied
        batched = jax.vmap(functools.partial(call, block), (0, None, 0), (0, None), axis_name="batch")
        out, new_state = batched(x, state, keys)
        return loss_of(out), (out, new_state)

    return jax.tree.leaves(eqx.filter(loss((block, X)), eqx.is_array))


# --- checkpoint --------------------------------------------------------------------------------------------


@every_limit
@every_other
def test_a_block_gives_what_filter_checkpoint_and_plain_give(limits, other):
    by = lambda wrap: over_a_batch(lambda block, x, state, key: wrap(block)(x, state, key=key))
    found = by(functools.partial(ours.reversible, **limits))
    assert_same(found, by(eqx.filter_checkpoint if other == "remat" else lambda block: block))


def test_it_is_a_module_that_holds_what_it_transforms():
    mlp = eqx.nn.MLP(6, 6, 8, 2, key=KEY)
    found, expected = ours.reversible(mlp, max_overhead=0.1), eqx.filter_checkpoint(mlp)
    arrays = lambda module: jax.tree.leaves(eqx.filter(module, eqx.is_array))
    assert_same(arrays(found), arrays(expected))
    gradient = lambda module: eqx.filter_jit(eqx.filter_grad(lambda m: loss_of(m(X[0]))))(module)
    assert_same(jax.tree.leaves(gradient(found)), jax.tree.leaves(gradient(expected)))


def test_as_a_decorator_of_a_method():
    class Twice(eqx.Module):
        linear: eqx.nn.Linear

        @ours.reversible(max_overhead=0.1)
        def __call__(self, x, activation=jnp.tanh):
            return activation(self.linear(activation(self.linear(x))))

    linear = eqx.nn.Linear(6, 6, key=KEY)
    gradient = eqx.filter_grad(lambda m: loss_of(m(X[0], activation=jnp.sin)))(Twice(linear))
    plain = eqx.filter_grad(lambda m: loss_of(jnp.sin(m(jnp.sin(m(X[0]))))))(linear)
    assert_same(jax.tree.leaves(gradient), jax.tree.leaves(plain))


def test_results_may_hold_anything():
    y, name, number = ours.reversible(lambda x: (jnp.sin(x), "name", 3))(X)
    np.testing.assert_array_equal(y, jnp.sin(X))
    assert (name, number) == ("name", 3)


# --- scan --------------------------------------------------------------------------------------------------


class Layer(eqx.Module):
    """A residual block that also gives what it added."""

    mlp: eqx.nn.MLP
    dropout: eqx.nn.Dropout

    def __init__(self, key):
        self.mlp = eqx.nn.MLP(6, 6, 8, 1, activation=jnp.tanh, key=key)
        self.dropout = eqx.nn.Dropout(0.5)

    def __call__(self, x, key):
        y = self.dropout(jax.vmap(self.mlp)(x), key=key)
        return x + y, y


LAYERS = eqx.filter_vmap(Layer)(jax.random.split(KEY, 4))


def plain_scan(f, init, xs, **how):
    """What Equinox's documentation shows: the arrays of the layers are scanned, the rest is put back."""
    (layers, keys), static = eqx.partition(xs, eqx.is_array)
    return lax.scan(lambda c, x: f(c, eqx.combine(x, static)), init, (layers, keys), **how)


def over_layers(scan, **how):
    @eqx.filter_jit
    @functools.partial(eqx.filter_value_and_grad, has_aux=True)
    def loss(varied):
        layers, x = varied
        out = scan(lambda x, layer: layer[0](x, layer[1]), x, (layers, jax.random.split(KEY, 4)), **how)
        return loss_of(out), out

    return jax.tree.leaves(eqx.filter(loss((LAYERS, X)), eqx.is_array))


@every_limit
def test_a_scan_over_layers_gives_what_plain_gives(limits):
    assert_same(over_layers(functools.partial(ours.reversible_scan, **limits)), over_layers(plain_scan))


@pytest.mark.slow
@pytest.mark.parametrize("how", [{"reverse": True}, {"unroll": 2}], ids=str)
def test_other_arguments_of_scan(how):
    assert_same(over_layers(ours.reversible_scan, **how), over_layers(plain_scan, **how))


def test_the_carry_may_hold_a_module():
    def body(carry, x):
        cell, h = carry
        h = cell(x, h)
        return (cell, h), (h, "kept")

    cell = eqx.nn.GRUCell(6, 6, key=KEY)

    def loss(cell, scan):
        (_, h), (hs, _) = scan(body, (cell, jnp.zeros(6)), X)
        return loss_of((h, hs))

    def plain(body, init, xs):
        h, hs = lax.scan(lambda h, x: (init[0](x, h),) * 2, init[1], xs)
        return (init[0], h), (hs, None)

    grad = eqx.filter_jit(eqx.filter_grad(loss))
    scan = functools.partial(ours.reversible_scan, **LEAST)
    assert_same(jax.tree.leaves(grad(cell, scan)), jax.tree.leaves(grad(cell, plain)))


def test_what_is_no_array_in_the_carry_may_not_change():
    with pytest.raises(TypeError, match=r"changed what is no array .* make it an array"):
        ours.reversible_scan(lambda carry, _: ((carry[0], carry[1] + 1), None), (X, 0), length=2)
