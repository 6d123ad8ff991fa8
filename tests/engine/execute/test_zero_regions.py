"""Regions of exact zeros, where any rounding would tip a comparison: the gradient is plain autodiff's."""

import functools
import math

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import bwsk_jax
from experiments.distance import distance
from tests.support.parity import random, warned

INF = math.inf
LAYERS = 4
LIMITS = {"default": None, "a tenth": 0.1, "least memory": INF}
ACTIVATIONS = {
    "relu": jax.nn.relu,
    "leaky relu": jax.nn.leaky_relu,
    "relu6": jax.nn.relu6,
    "abs": jnp.abs,
    "relu by where": lambda x: jnp.where(x > 0, x, 0.0),
    "relu by max": lambda x: jnp.maximum(x, 0.0),
    "hard tanh": jax.nn.hard_tanh,
}


def compare(body, carry, params, limit):
    """How far the gradients of all arguments are from those of `lax.scan`; no warning is given."""

    def gradient(scan):
        def loss(carry, params):
            return sum(jnp.sum(jnp.sin(a)) for a in jax.tree.leaves(scan(body, carry, params)[0]))

        return jax.jit(jax.grad(loss, (0, 1)))(carry, params)

    ours = []
    scan = functools.partial(bwsk_jax.reversible_scan, max_overhead=limit)
    assert not warned(lambda: ours.append(gradient(scan)))
    plain = gradient(lax.scan)
    return max(distance(ours[0], plain), *map(distance, ours[0][1], plain[1]))


NORMALISED = {
    "by the length": lambda x: (
        x / jnp.maximum(jnp.linalg.norm(lax.stop_gradient(x), axis=-1, keepdims=True), 1e-12)
    ),
    "by the largest": lambda x: x / jnp.maximum(jnp.abs(x).max(-1, keepdims=True), 1e-12),
    "by the mean": lambda x: x / (jnp.abs(x).mean(-1, keepdims=True) + 1e-8),
    "to a sign": lambda x: jnp.clip(x / 1e-8, -1, 1),
}


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("how", NORMALISED)
def test_rows_of_zeros_that_are_normalised(how, limit):
    normalised = NORMALISED[how]
    body = lambda c, w: ((c[1], c[0] + jnp.tanh(normalised(c[1]) @ w[0])), None)
    x = random(40, 8, 16)
    for half in (x.at[:2].set(0.0), 0 * x):
        assert compare(body, (x, half), (0.5 * random(41, 6, 16, 16),), LIMITS[limit]) < 1e-4


def convolution(x, kernel, bias):
    return (
        lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")) + bias
    )


def framed_images(seed, channels=4, size=12, frame=3):
    """Images that are exactly 0 outside of a square, as hand-written digits are."""
    inside = jnp.zeros((1, size, size, 1)).at[:, frame:-frame, frame:-frame].set(1.0)
    return random(seed, 2, size, size, channels) * inside


def coupling(activation):
    def branch(x, p):
        return convolution(activation(convolution(activation(x), p["k1"], p["b1"])), p["k2"], p["b2"])

    def body(carry, params):
        a, b = carry
        a = a + branch(b, params[0])
        return (a, b + branch(a, params[1])), None

    return body


def branch_params(seed, outer_bias):
    kernel = lambda k: 0.3 * random(10 * seed + k, LAYERS, 3, 3, 4, 4)
    zeros = jnp.zeros((LAYERS, 1, 1, 1, 4))
    outer = zeros + outer_bias * random(10 * seed + 2, LAYERS, 1, 1, 1, 4)
    return {"k1": kernel(0), "b1": zeros, "k2": kernel(1), "b2": outer}


@pytest.mark.parametrize("limit", LIMITS.values(), ids=LIMITS)
@pytest.mark.parametrize(
    "outer_bias",
    [pytest.param(0.0, id="no bias"), pytest.param(1.0, id="outer biases", marks=pytest.mark.slow)],
)
def test_images_with_a_black_frame(limit, outer_bias):
    params = branch_params(1, outer_bias), branch_params(2, outer_bias)
    carry = framed_images(3), framed_images(4)
    assert compare(coupling(jax.nn.relu), carry, params, limit) <= 1e-5


SLOW = {"leaky relu", "relu by where", "relu by max"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in ACTIVATIONS]
)
def test_whatever_compares(name):
    params = branch_params(1, 0.0), branch_params(2, 0.0)
    carry = framed_images(3), framed_images(4)
    assert compare(coupling(ACTIVATIONS[name]), carry, params, INF) <= 1e-5


@pytest.mark.parametrize("limit", LIMITS.values(), ids=LIMITS)
def test_padded_rows_with_positions_that_start_at_zero(limit):
    """Rows of padding hold nothing but their position's embedding, which starts at 0 and has a gradient."""
    batch, length, width = 2, 8, 8
    words = random(1, batch, length, width).at[:, 5:].set(0.0)

    def body(carry, params):
        a, b = carry
        a = a + jax.nn.relu(b @ params[0]) @ params[1]
        return (a, b + jax.nn.relu(a @ params[2]) @ params[3]), None

    params = tuple(0.5 * random(5 + k, LAYERS, width, width) for k in range(4))

    def gradient(scan):
        def loss(positions):
            hidden = words + positions
            a, b = scan(body, (hidden, hidden), params)[0]
            return jnp.sum(jnp.sin(a) * jnp.cos(b))

        return jax.jit(jax.grad(loss))(jnp.zeros((1, length, width)))

    ours = gradient(functools.partial(bwsk_jax.reversible_scan, max_overhead=limit))
    assert distance(ours, gradient(lax.scan)) <= 1e-5


def least_bytes(activation):
    """What a layer of the coupling keeps at least memory, as a fraction of its carry."""
    half = jax.ShapeDtypeStruct((2, 12, 12, 4), jnp.float32)
    params = branch_params(1, 0.0), branch_params(2, 0.0)
    plan = bwsk_jax.plan_scan(coupling(activation), (half, half), params, max_overhead=INF)
    return plan.saved_bytes / (2 * math.prod(half.shape) * 4)


def test_a_mask_takes_a_bit_of_each_element():
    """Two relus in each branch keep two bits for the 32 of an element of the carry."""
    assert least_bytes(jax.nn.relu) <= 0.07


@pytest.mark.parametrize("smooth", [jnp.tanh, jax.nn.silu, jax.nn.gelu, jax.nn.softplus])
def test_what_compares_nothing_keeps_nothing(smooth):
    assert least_bytes(smooth) == 0


JUMPS = {
    "a remainder": (
        lambda a, w: lax.rem(a @ jnp.ones((8, 8)), jnp.float32(1.0)),
        jnp.broadcast_to(jnp.float32(0.125), (4, 8)),
    ),
    "an angle": (lambda a, w: jnp.atan2(a @ w, -jnp.ones((4, 8))), random(6, 4, 8).at[0].set(0.0)),
    "an infinite logarithm": (
        lambda a, w: jnp.isfinite(jnp.log((a**2).sum(-1, keepdims=True))).astype(a.dtype),
        random(6, 4, 8).at[0].set(0.0),
    ),
    "an infinite quotient": (
        lambda a, w: (1 / (a**2).sum(-1, keepdims=True) < jnp.inf).astype(a.dtype),
        random(6, 4, 8).at[0].set(0.0),
    ),
}


@pytest.mark.parametrize("name", JUMPS)
def test_what_jumps_reads_nothing_that_was_recovered_with_rounding(name):
    jump, start = JUMPS[name]

    def body(carry, w):
        a, d = carry
        y = d * jump(a, w[0])
        d = d + jnp.sin(a @ w[0])
        return (a + jnp.tanh(d @ w[1]) + jnp.sin(d @ w[2]), d), y

    init, weights = (start, random(7, 4, 8)), 0.4 * random(5, 1, 3, 8, 8)
    grad = lambda scan: jax.jit(jax.grad(lambda init: scan(body, init, weights)[1].sum()))(init)[1]
    ours = grad(functools.partial(bwsk_jax.reversible_scan, max_overhead=INF))
    assert float(jnp.abs(ours - grad(lax.scan)).max()) < 1e-4


def mask(branch):
    return branch > 0, lambda kept, x: jnp.where(kept, jnp.sin(3 * branch), 0.0)


def index(branch):
    return jnp.floor(3 * jnp.abs(branch)).astype(jnp.int8), lambda kept, x: x[kept] * jnp.sin(branch)


@pytest.mark.parametrize("made", [mask, index])
def test_booleans_and_integers_do_not_come_back_from_floats_that_were_rounded(made):
    """`(m + x) + y - y - x` is almost 0 where m was, which is true, and almost 3, which is 2."""

    def body(carry, inputs):
        (x, y), (q, d) = inputs, carry
        kept, output = made(d)
        return ((kept.astype(jnp.float32) + x) + y, d + jnp.tanh(q)), output(kept, x)

    init, xs = (random(1, 64), random(2, 64)), (random(3, 3, 64), random(4, 3, 64))
    grad = lambda scan: jax.jit(jax.grad(lambda init: scan(body, init, xs)[1].sum()))(init)[1]
    ours = grad(functools.partial(bwsk_jax.reversible_scan, max_overhead=INF))
    assert distance(ours, grad(lax.scan)) < 1e-5
