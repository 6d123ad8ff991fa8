"""Layers that are invertible by construction: couplings, flows and integrators.

Their carry is float32 whatever the type of the computation is. Going back means undoing sums, and the engine
saves a narrower carry rather than recover it with its rounding.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from flax import linen

from experiments.families.libraries import from_equinox, from_linen
from experiments.families.stack import HEADS, Size, Stack, layers, normal
from experiments.families.vision import image

__all__ = ["glow", "leapfrog", "momentum", "real_nvp", "reformer", "revnet"]


def _within(dtype: Any, branch: Callable) -> Callable:
    """Return the branch computed in another type, from float32 to float32."""
    return lambda params, x: branch(params, x.astype(dtype)).astype(jnp.float32)


_layers = functools.partial(layers, stream=jnp.float32)


def _coupling(first: Callable, second: Callable) -> Callable:
    """Return the coupling `a + F(b)`, then `b + G(a)`; A. Gomez et al., 2017."""

    def apply(params, carry):
        a, b = carry
        a = a + first(params[0], b)
        return a, b + second(params[1], a)

    return apply


def _both(first: Callable, second: Callable) -> Callable:
    return lambda key: tuple(f(k) for f, k in zip((first, second), jax.random.split(key), strict=True))


class Convolutions(linen.Module):
    """Convolution, group norm, relu, convolution; with `pre_activation`, a norm and a relu come before."""

    pre_activation: bool

    @linen.compact
    def __call__(self, x_byxh):
        """Return images [B, Y, X, H]."""
        width = x_byxh.shape[-1]
        if self.pre_activation:
            x_byxh = linen.relu(linen.GroupNorm(num_groups=4)(x_byxh))
        h_byxh = linen.relu(linen.GroupNorm(num_groups=4)(linen.Conv(width, (3, 3))(x_byxh)))
        return linen.Conv(width, (3, 3))(h_byxh)


def revnet(dtype: Any, size: Size, pre_activation: bool = False) -> Stack:
    """RevNet: a coupling of convolutions from Linen's modules."""
    halves = image(1, size), image(2, size)
    init, apply = from_linen(Convolutions(pre_activation), halves[0])
    return _layers(_both(init, init), _coupling(*2 * [_within(dtype, apply)]), halves, size, dtype)


class SelfAttention(linen.Module):
    """Layer norm, causal attention."""

    @linen.compact
    def __call__(self, x_bth):
        """Return hidden [B, T, H]."""
        mask = linen.make_causal_mask(x_bth[..., 0])
        return linen.MultiHeadDotProductAttention(HEADS)(linen.LayerNorm()(x_bth), mask=mask)


class FeedForward(linen.Module):
    """Layer norm, two dense layers."""

    @linen.compact
    def __call__(self, x_bth):
        """Return hidden [B, T, H]."""
        width = x_bth.shape[-1]
        return linen.Dense(width)(linen.gelu(linen.Dense(4 * width)(linen.LayerNorm()(x_bth))))


def reformer(dtype: Any, size: Size) -> Stack:
    """Reformer's coupling of attention and feed-forward, with full attention; N. Kitaev et al., 2020."""
    halves = tuple(normal(k, size.batch, size.time, size.width) for k in (1, 2))
    inits, branches = zip(*(from_linen(m, halves[0]) for m in (SelfAttention(), FeedForward())), strict=True)
    apply = _coupling(*(_within(dtype, branch) for branch in branches))
    return _layers(_both(*inits), apply, halves, size, dtype)


def _affine_coupling(conditioner: Callable, a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return `a` scaled and shifted by functions of `b`, and the logarithms of the scales, in [-1, 1]."""
    log_scale, shift = jnp.split(conditioner(b), 2, -1)
    log_scale = jnp.tanh(log_scale)
    return a * jnp.exp(log_scale) + shift, log_scale


def _conditioner(width: int, dtype: Any) -> tuple[Callable, Callable]:
    """Return an MLP of Equinox on the last axis, from H to 2 H, as a pair of functions."""
    init, apply = from_equinox(lambda key: eqx.nn.MLP(width, 2 * width, 2 * width, 2, jax.nn.relu, key=key))

    def over_rows(params, x):
        rows = jax.vmap(lambda row: apply(params, row))(x.reshape(-1, width))
        return rows.reshape(*x.shape[:-1], 2 * width)

    return init, _within(dtype, over_rows)


def real_nvp(dtype: Any, size: Size) -> Stack:
    """RealNVP on vectors, its halves in turns, with the log-determinant; L. Dinh et al., 2017."""
    init, conditioner = _conditioner(size.width, dtype)

    def apply(params, carry):
        a, b = carry
        a, log_scale = _affine_coupling(lambda b: conditioner(params, b), a, b)
        return (b, a), log_scale.sum(-1)

    halves = tuple(normal(k, size.batch * size.time, size.width) for k in (1, 2))
    return _layers(init, apply, halves, size, dtype, has_output=True)


def glow(dtype: Any, size: Size) -> Stack:
    """Actnorm, a 1x1 convolution by a square matrix, an affine coupling; D. Kingma and P. Dhariwal, 2018."""
    width = size.width
    init_conditioner, conditioner = _conditioner(width // 2, dtype)

    def init(key):
        keys = jax.random.split(key, 3)
        return {
            "log_scale": 0.1 * jax.random.normal(keys[0], (width,)),
            "shift": jnp.zeros(width),
            "mix": jax.random.orthogonal(keys[1], width),
            "conditioner": init_conditioner(keys[2]),
        }

    def apply(p, x_byxh):
        pixels = x_byxh.shape[1] * x_byxh.shape[2]
        x_byxh = (x_byxh + p["shift"]) * jnp.exp(p["log_scale"])
        a, b = jnp.split(x_byxh @ p["mix"], 2, -1)
        a, log_scale = _affine_coupling(lambda b: conditioner(p["conditioner"], b), a, b)
        volume = jnp.linalg.slogdet(p["mix"].astype(jnp.float32))[1] + p["log_scale"].sum()
        return jnp.concatenate([a, b], -1), pixels * volume + log_scale.sum((1, 2, 3))

    return _layers(init, apply, image(1, size), size, dtype, has_output=True)


def _init_force(width: int) -> Callable:
    def init(key):
        keys = jax.random.split(key)
        draw = lambda key, n, m: jax.random.normal(key, (n, m)) / math.sqrt(n)
        return {"into": draw(keys[0], width, 2 * width), "out": draw(keys[1], 2 * width, width)}

    return init


def leapfrog(dtype: Any, size: Size, step: float = 0.25) -> Stack:
    """Hamiltonian layers by the leapfrog integrator: kick, drift, kick; B. Chang et al., 2018."""

    def energy(p, position):
        return jnp.sum(jax.nn.softplus(position @ p["into"]) @ p["out"] * position)

    force = _within(dtype, jax.grad(energy, 1))

    def apply(p, carry):
        position, velocity = carry
        velocity = velocity - step / 2 * force(p, position)
        position = position + step * velocity
        return position, velocity - step / 2 * force(p, position)

    state = tuple(normal(k, size.batch, size.time, size.width, scale=0.5) for k in (1, 2))
    return _layers(_init_force(size.width), apply, state, size, dtype)


def momentum(dtype: Any, size: Size, decay: float = 0.9) -> Stack:
    """Momentum residual layers, whose inverse divides by 0.9; M. Sander et al., 2021."""

    force = _within(dtype, lambda p, x: jnp.tanh(x @ p["into"]) @ p["out"])

    def apply(p, carry):
        x, velocity = carry
        velocity = decay * velocity + (1 - decay) * force(p, x)
        return x + velocity, velocity

    state = tuple(normal(k, size.batch, size.time, size.width) for k in (1, 2))
    return _layers(_init_force(size.width), apply, state, size, dtype)
