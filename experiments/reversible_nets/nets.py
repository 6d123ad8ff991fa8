"""Six networks, each as one layer and as that layer's way back, derived by hand.

A way back takes a layer's parameters, what the layer has made of its input, and the cotangents of that. It
returns the input, its cotangents, and those of the parameters. Each branch is evaluated once: as it is
differentiated it is also taken away, as RevNet's own backward pass does it (A. Gomez et al., 2017, algorithm
1). None of this is used by the plans, which get `step` alone.

Axes: B batch, T time, Y and X of an image, H width, N heads, D head width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["NETS", "SPAN", "Net", "Size", "force"]

HEADS = 4
DECAY = 0.9
"""Of the momentum."""
SPAN = 4.0
"""The time that the integrators cover, whatever their number of steps."""


@dataclass(frozen=True)
class Size:
    """The sizes of a net; the width is a multiple of `HEADS`."""

    batch: int
    time: int
    width: int
    depth: int


@dataclass(frozen=True)
class Net:
    """A network of equal layers, which hand on a pair of arrays."""

    init: Callable[[jax.Array, Size], Any]
    """`init(key, size)` draws the parameters of a layer."""
    step: Callable[[Size, Any, Any], tuple[Any, Any]]
    """`step(size, params, pair)` returns the next pair, and what the layer outputs or None."""
    back: Callable[[Size, Any, Any, Any, Any], tuple[Any, Any, Any]]
    """`back(size, params, pair after, its cotangents, those of the output)`."""
    shape: Callable[[Size], tuple[int, ...]] = lambda size: (size.batch, size.time, size.width)
    """Of each half of the pair."""
    start: Callable[[jax.Array], tuple[jax.Array, jax.Array]] = tuple
    """The first pair, of an array of this shape with a leading axis of 2."""
    end: Callable[[tuple[jax.Array, jax.Array]], Any] = lambda pair: pair
    """What the loss reads of the last pair."""
    tied: bool = False
    """Whether all layers share one set of parameters."""


def _normal(key: jax.Array, *shape: int, scale: float = 1.0) -> jax.Array:
    """Return weights that keep the variance of what all but the last axis is summed over, times the scale."""
    return scale / math.sqrt(math.prod(shape[:-1])) * jax.random.normal(key, shape)


def _normalised(x: jax.Array, scale_h: jax.Array) -> jax.Array:
    x = x - x.mean(-1, keepdims=True)
    inverse = jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-6)
    return x * inverse * scale_h.reshape((1,) * (x.ndim - 1) + (-1,))


# --- couplings: a + F(b), then b + G(a) ----------------------------------------------------------------


def _coupling(f: Callable, g: Callable) -> tuple[Callable, Callable]:
    """Return the step and the way back of a coupling of two branches of (size, params, x)."""

    def step(size, params, pair):
        a, b = pair
        a = a + f(size, params[0], b)
        b = b + g(size, params[1], a)
        return (a, b), None

    def back(size, params, pair, cotangents, _):
        (a, b), (a_bar, b_bar) = pair, cotangents
        branch, pull = jax.vjp(lambda p, x: g(size, p, x), params[1], a)
        b = b - branch
        g_bar, through = pull(b_bar)
        a_bar = a_bar + through
        branch, pull = jax.vjp(lambda p, x: f(size, p, x), params[0], b)
        a = a - branch
        f_bar, through = pull(a_bar)
        return (a, b), (a_bar, b_bar + through), (f_bar, g_bar)

    return step, back


def _convolution(_, params, x_byxh):
    """Norm, relu, 3x3 convolution."""
    x_byxh = jax.nn.relu(_normalised(x_byxh, params["scale"]))
    axes = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x_byxh, params["kernel"], (1, 1), "SAME", dimension_numbers=axes)


def _init_convolutions(key, size):
    width, scale = size.width, 1 / math.sqrt(size.depth)
    draw = lambda key: {"kernel": _normal(key, 3, 3, width, width, scale=scale), "scale": jnp.ones(width)}
    return tuple(map(draw, jax.random.split(key)))


def _image(size: Size) -> tuple[int, ...]:
    side = math.isqrt(size.time)
    return size.batch, side, side, size.width


def _attention(_, p, x_bth):
    """Layer norm, causal attention."""
    x_bth = _normalised(x_bth, p["scale"])
    qkv = (x_bth @ p["qkv"]).reshape(*x_bth.shape[:2], 3 * HEADS, -1)
    mixed_btnd = jax.nn.dot_product_attention(*jnp.split(qkv, 3, 2), is_causal=True)
    return mixed_btnd.reshape(x_bth.shape) @ p["out"]


def _feed_forward(_, p, x_bth):
    """Layer norm, two dense layers."""
    return jax.nn.gelu(_normalised(x_bth, p["scale"]) @ p["up"]) @ p["down"]


def _init_reformer(key, size):
    width, scale, keys = size.width, 1 / math.sqrt(size.depth), jax.random.split(key, 4)
    attention = {
        "qkv": _normal(keys[0], width, 3 * width),
        "out": _normal(keys[1], width, width, scale=scale),
    }
    dense = {
        "up": _normal(keys[2], width, 4 * width),
        "down": _normal(keys[3], 4 * width, width, scale=scale),
    }
    return attention | {"scale": jnp.ones(width)}, dense | {"scale": jnp.ones(width)}


# --- RealNVP: a half is scaled and shifted by functions of the other ------------------------------------


def _conditioner(params, b):
    log_scale, shift = jnp.split(jax.nn.relu(b @ params["up"]) @ params["down"], 2, -1)
    return jnp.tanh(log_scale), shift


def _init_conditioner(key, size):
    width, keys = size.width, jax.random.split(key)
    scale = 1 / math.sqrt(size.depth)
    return {
        "up": _normal(keys[0], width, 2 * width),
        "down": _normal(keys[1], 2 * width, 2 * width, scale=scale),
    }


def _affine(_, params, pair):
    a, b = pair
    log_scale, shift = _conditioner(params, b)
    return (b, a * jnp.exp(log_scale) + shift), log_scale.sum(-1)


def _affine_back(_, params, pair, cotangents, volume_bar):
    (b, after), (b_bar, after_bar) = pair, cotangents
    (log_scale, shift), pull = jax.vjp(_conditioner, params, b)
    a = (after - shift) * jnp.exp(-log_scale)
    a_bar = after_bar * jnp.exp(log_scale)
    params_bar, through = pull((a_bar * a + volume_bar[..., None], after_bar))
    return (a, b), (a_bar, b_bar + through), params_bar


# --- momentum -----------------------------------------------------------------------------------------


def force(p, x):
    """Two dense layers with tanh between them."""
    return jnp.tanh(x @ p["into"]) @ p["out"]


def _init_force(key, size):
    width, keys = size.width, jax.random.split(key)
    scale = 1 / math.sqrt(size.depth)
    return {
        "into": _normal(keys[0], width, 2 * width),
        "out": _normal(keys[1], 2 * width, width, scale=scale),
    }


def _momentum(_, p, pair):
    x, velocity = pair
    velocity = DECAY * velocity + (1 - DECAY) * force(p, x)
    return (x + velocity, velocity), None


def _momentum_back(_, p, pair, cotangents, __):
    (x, velocity), (x_bar, velocity_bar) = pair, cotangents
    x = x - velocity
    pushed, pull = jax.vjp(force, p, x)
    velocity_bar = velocity_bar + x_bar
    p_bar, through = pull((1 - DECAY) * velocity_bar)
    before = (velocity - (1 - DECAY) * pushed) / DECAY
    return (x, before), (x_bar + through, DECAY * velocity_bar), p_bar


# --- leapfrog: kick, drift, kick ------------------------------------------------------------------------


def _energy(p, position):
    return jnp.sum(jax.nn.softplus(position @ p["into"]) @ p["out"] * position)


def _init_energy(key, size):
    width, keys = size.width, jax.random.split(key)
    return {"into": _normal(keys[0], width, 2 * width), "out": _normal(keys[1], 2 * width, width)}


_gradient = jax.grad(_energy, 1)


def _leapfrog(size, p, pair):
    (position, velocity), step = pair, SPAN / size.depth
    velocity = velocity - step / 2 * _gradient(p, position)
    position = position + step * velocity
    return (position, velocity - step / 2 * _gradient(p, position)), None


def _leapfrog_back(size, p, pair, cotangents, _):
    (position, velocity), (position_bar, velocity_bar) = pair, cotangents
    step = SPAN / size.depth
    slope, pull = jax.vjp(_gradient, p, position)
    velocity = velocity + step / 2 * slope
    second, through = pull(-step / 2 * velocity_bar)
    position_bar = position_bar + through
    velocity_bar = velocity_bar + step * position_bar
    position = position - step * velocity
    slope, pull = jax.vjp(_gradient, p, position)
    velocity = velocity + step / 2 * slope
    first, through = pull(-step / 2 * velocity_bar)
    p_bar = jax.tree.map(jnp.add, first, second)
    return (position, velocity), (position_bar + through, velocity_bar), p_bar


# --- reversible Heun, a neural differential equation; P. Kidger et al., 2021 -----------------------------


def _heun(size, p, pair):
    """The paper's step. Half a step is named, so that each sum has one unknown on the way back."""
    (y, guess), half = pair, SPAN / size.depth / 2
    middle = y + half * force(p, guess)
    guess = 2 * middle - guess
    return (middle + half * force(p, guess), guess), None


def _heun_back(size, p, pair, cotangents, _):
    (y, guess), (y_bar, guess_bar) = pair, cotangents
    step = SPAN / size.depth
    after, pull = jax.vjp(force, p, guess)
    second, through = pull(step / 2 * y_bar)
    guess_bar = guess_bar + through
    guess = 2 * y - guess - step * after
    before, pull = jax.vjp(force, p, guess)
    y = y - step / 2 * (before + after)
    first, through = pull(step / 2 * y_bar + step * guess_bar)
    p_bar = jax.tree.map(jnp.add, first, second)
    return (y, guess), (y_bar + 2 * guess_bar, through - guess_bar), p_bar


def _init_field(key, size):
    keys = jax.random.split(key)
    return {
        "into": _normal(keys[0], size.width, 2 * size.width),
        "out": _normal(keys[1], 2 * size.width, size.width),
    }


NETS: dict[str, Net] = {
    "RevNet": Net(_init_convolutions, *_coupling(_convolution, _convolution), _image),
    "Reformer": Net(_init_reformer, *_coupling(_attention, _feed_forward)),
    "RealNVP": Net(_init_conditioner, _affine, _affine_back),
    "momentum": Net(_init_force, _momentum, _momentum_back),
    "leapfrog": Net(_init_energy, _leapfrog, _leapfrog_back),
    "reversible Heun": Net(
        _init_field, _heun, _heun_back, start=lambda x: (x[0], x[0]), end=lambda pair: pair[0], tied=True
    ),
}
