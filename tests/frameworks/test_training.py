"""A model of each framework, after its own examples, learns the same by our loop and in less memory.

The layers stand in a loop: a residual network (Linen's ImageNet example), a perceptron with normalisation and
dropout (NNX's guide to transformations), an MLP-Mixer (Equinox's example) and a causal transformer (Haiku's).
"""

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import lax

import bwsk_jax
from bwsk_jax.frameworks import equinox, haiku, linen
from bwsk_jax.frameworks import nnx as nnx_siblings
from tests.support.frameworks import promotion_as_the_libraries_have_it

promotion = promotion_as_the_libraries_have_it()
KEY = jax.random.key(0)
L, B, CLASSES = 6, 8, 5
LEAST = {"max_overhead": bwsk_jax.LEAST_MEMORY}
LABELS = jax.random.randint(jax.random.key(1), (B,), 0, CLASSES)
IMAGES = jax.random.normal(jax.random.key(2), (B, 8, 8, 3)) + LABELS[:, None, None, None]
TOKENS = jax.random.randint(jax.random.key(3), (B, 17), 0, 32)


def cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def residual_network(scan):
    """Linen: parameters, statistics that change, and keys."""

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            h = nn.Conv(16, (3, 3), use_bias=False)(x)
            h = nn.relu(nn.BatchNorm(use_running_average=False, momentum=0.9)(h))
            h = nn.Dropout(0.1, deterministic=False)(h)
            return x + nn.Conv(16, (3, 3), use_bias=False)(h), None

    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            layers = scan(
                Block,
                variable_axes={"params": 0, "batch_stats": 0},
                split_rngs={"params": True, "dropout": True},
                length=L,
            )
            x, _ = layers()(nn.Conv(16, (3, 3))(x), None)
            return nn.Dense(CLASSES)(x.mean(axis=(1, 2)))

    network = Network()
    params, state = (v := network.init({"params": KEY, "dropout": KEY}, IMAGES))["params"], v["batch_stats"]

    def loss(params, state, key):
        variables = {"params": params, "batch_stats": state}
        logits, changed = network.apply(variables, IMAGES, rngs={"dropout": key}, mutable=["batch_stats"])
        return cross_entropy(logits, LABELS), changed["batch_stats"]

    return params, state, loss


def perceptron(scan):
    """NNX: a module that changes as it is called."""

    class Block(nnx.Module):
        def __init__(self, rngs):
            self.linear = nnx.Linear(64, 64, use_bias=False, rngs=rngs)
            self.norm = nnx.BatchNorm(64, rngs=rngs)
            self.dropout = nnx.Dropout(0.1, rngs=rngs)

        def __call__(self, x):
            return x + self.dropout(nnx.relu(self.norm(self.linear(x))))

    class Network(nnx.Module):
        def __init__(self, rngs):
            self.enter = nnx.Linear(8 * 8 * 3, 64, rngs=rngs)
            self.blocks = nnx.split_rngs(splits=L)(nnx.vmap(Block))(rngs)
            self.leave = nnx.Linear(64, CLASSES, rngs=rngs)

        def __call__(self, x):
            forward = scan(lambda x, block: block(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
            return self.leave(forward(self.enter(x), self.blocks))

    graph, params, rest = nnx.split(Network(nnx.Rngs(0)), nnx.Param, ...)
    images = jnp.tile(IMAGES.reshape(B, -1), (16, 1))

    def loss(params, rest, key):
        model = nnx.merge(graph, params, rest, copy=True)
        value = cross_entropy(model(images), jnp.tile(LABELS, 16))
        return value, nnx.state(model, nnx.Not(nnx.Param))

    return params, rest, loss


def mixer(scan):
    """Equinox: a module that is a pytree, with an activation function in it."""

    class Block(eqx.Module):
        patches: eqx.nn.MLP
        channels: eqx.nn.MLP
        norms: tuple

        def __init__(self, key):
            first, second = jax.random.split(key)
            self.patches = eqx.nn.MLP(16, 16, 32, 1, activation=jax.nn.gelu, key=first)
            self.channels = eqx.nn.MLP(24, 24, 48, 1, activation=jax.nn.gelu, key=second)
            self.norms = eqx.nn.LayerNorm((24, 16)), eqx.nn.LayerNorm((16, 24))

        def __call__(self, y):
            y = y + jax.vmap(self.patches)(self.norms[0](y))
            return y + jax.vmap(self.channels)(self.norms[1](y.T)).T

    layers = eqx.filter_vmap(Block)(jax.random.split(KEY, L))
    enter, leave = eqx.nn.Conv2d(3, 24, 2, stride=2, key=KEY), eqx.nn.Linear(24, CLASSES, key=KEY)
    params, static = eqx.partition((enter, layers, leave), eqx.is_array)

    def loss(params, state, key):
        enter, layers, leave = eqx.combine(params, static)
        y = jax.vmap(enter)(IMAGES.transpose(0, 3, 1, 2)).reshape(B, 24, 16)
        y, _ = scan(lambda y, block: (jax.vmap(block)(y), None), y, layers)
        return cross_entropy(jax.vmap(leave)(y.mean(axis=-1)), LABELS), state

    return params, (), loss


def filtered_scan(f, init, layers):
    arrays, static = eqx.partition(layers, eqx.is_array)
    return lax.scan(lambda c, x: f(c, eqx.combine(x, static)), init, arrays)


def transformer(stack):
    """Haiku: keys are drawn inside."""

    def block(h):
        normed = lambda h: hk.LayerNorm(-1, True, True)(h)
        mask = jnp.tril(jnp.ones((1, 1, h.shape[1], h.shape[1])))
        init = hk.initializers.VarianceScaling(2 / L)
        attention = hk.MultiHeadAttention(2, 16, model_size=32, w_init=init)
        queries = normed(h)
        h = h + hk.dropout(hk.next_rng_key(), 0.1, attention(queries, queries, queries, mask=mask))
        dense = hk.Sequential([hk.Linear(128, w_init=init), jax.nn.gelu, hk.Linear(32, w_init=init)])
        return h + hk.dropout(hk.next_rng_key(), 0.1, dense(normed(h)))

    @hk.transform_with_state
    def network(tokens):
        h = hk.Embed(32, 32)(tokens) + hk.get_parameter("positions", (16, 32), init=jnp.zeros)
        h = stack(L)(block)(h)
        return hk.Linear(32)(hk.LayerNorm(-1, True, True)(h))

    params, state = network.init(KEY, TOKENS[:, :-1])

    def loss(params, state, key):
        logits, state = network.apply(params, state, key, TOKENS[:, :-1])
        return cross_entropy(logits, TOKENS[:, 1:]), state

    return params, state, loss


MODELS = {
    "Linen": (residual_network, nn.scan, linen.reversible_scan),
    "NNX": (perceptron, nnx.scan, nnx_siblings.reversible_scan),
    "Equinox": (mixer, filtered_scan, equinox.reversible_scan),
    "Haiku": (transformer, hk.layer_stack, haiku.reversible_layer_stack),
}


def trained(model, scan, steps=20):
    """The losses, the last state, and the bytes of temporaries of the compiled step."""
    params, state, loss = model(scan)
    optimizer = optax.adam(3e-3)

    def step(params, state, moments, key):
        (value, state), gradient = jax.value_and_grad(loss, has_aux=True)(params, state, key)
        updates, moments = optimizer.update(gradient, moments)
        return optax.apply_updates(params, updates), state, moments, value

    carried = params, state, optimizer.init(params)
    compiled = jax.jit(step).lower(*carried, KEY).compile()
    losses = []
    for k in range(steps):
        *carried, value = compiled(*carried, jax.random.fold_in(KEY, k))
        losses.append(float(value))
    return losses, carried[1], compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n == "Equinox" else pytest.mark.slow) for n in MODELS]
)
def test_twenty_steps_have_the_losses_of_plain_and_take_less_memory(name):
    model, plain, sibling = MODELS[name]
    limited = lambda *args, **how: sibling(*args, **how, **LEAST)
    (expected, plain_state, plain_bytes), (losses, state, found_bytes) = (
        trained(model, scan) for scan in (plain, limited)
    )
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    assert losses[-1] < 0.8 * losses[0]
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(plain_state), strict=True):
        is_key = jnp.issubdtype(a.dtype, jax.dtypes.prng_key)
        data = jax.random.key_data if is_key else lambda a: a
        np.testing.assert_allclose(data(a), data(b), rtol=1e-3, atol=1e-4)
    assert found_bytes < plain_bytes
