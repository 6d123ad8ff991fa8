"""State-space layers, and recurrent cells scanned over time."""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
from flax import linen, nnx
from jax import lax

from experiments.families.libraries import from_equinox, from_haiku, from_linen, from_nnx
from experiments.families.stack import Size, Stack, layers, normal, recurrence
from experiments.families.transformers import rms_norm

__all__ = ["equinox_gru", "haiku_gru", "linen_gru", "mamba", "nnx_gru", "state_space"]


def _inputs(size: Size) -> jax.Array:
    return normal(1, size.layers, size.batch, size.width)


def _state(size: Size) -> jax.Array:
    return normal(2, size.batch, size.width)


def linen_gru(dtype: Any, size: Size) -> Stack:
    """GRU cells of Linen, scanned over time."""
    pair = from_linen(linen.GRUCell(size.width), _state(size), _inputs(size)[0])
    return recurrence(pair[0], lambda p, h, x: pair[1](p, h, x)[0], _state(size), _inputs(size), dtype)


def nnx_gru(dtype: Any, size: Size) -> Stack:
    """GRU cells of NNX, scanned over time."""
    init, apply = from_nnx(lambda rngs: nnx.GRUCell(size.width, size.width, rngs=rngs))
    parameters = lambda key: nnx.filter_state(init(key), nnx.Param)
    return recurrence(parameters, lambda p, h, x: apply(p, h, x)[0], _state(size), _inputs(size), dtype)


def equinox_gru(dtype: Any, size: Size) -> Stack:
    """GRU cells of Equinox, scanned over time."""
    init, apply = from_equinox(lambda key: eqx.nn.GRUCell(size.width, size.width, key=key))
    step = lambda p, h, x: jax.vmap(lambda x, h: apply(p, x, h))(x, h)
    return recurrence(init, step, _state(size), _inputs(size), dtype)


def haiku_gru(dtype: Any, size: Size) -> Stack:
    """GRU cores of Haiku, scanned over time."""
    init, apply = from_haiku(lambda x, h: hk.GRU(size.width)(x, h)[1], _inputs(size)[0], _state(size))
    return recurrence(init, lambda p, h, x: apply(p, x, h), _state(size), _inputs(size), dtype)


def _combine(left, right):
    """Return two steps of `s -> decay s + drive` as one step."""
    return left[0] * right[0], left[1] * right[0] + right[1]


def _in_parallel(decay_btfs, drive_btfs):
    return lax.associative_scan(_combine, (decay_btfs, drive_btfs), axis=1)[1]


def _in_turn(decay_btfs, drive_btfs):
    def step(state_bfs, inputs):
        decay_bfs, drive_bfs = inputs
        state_bfs = decay_bfs * state_bfs + drive_bfs
        return state_bfs, state_bfs

    inputs = decay_btfs.swapaxes(0, 1), drive_btfs.swapaxes(0, 1)
    return lax.scan(step, jnp.zeros_like(decay_btfs[:, 0]), inputs)[1].swapaxes(0, 1)


def _selective(run, dtype, size, states=4, taps=4) -> Stack:
    width, inner = size.width, 2 * size.width

    def init(key):
        keys = jax.random.split(key, 5)
        draw = lambda key, n, m: jax.random.normal(key, (n, m)) / math.sqrt(n)
        return {
            "norm": jnp.ones(width),
            "expand": draw(keys[0], width, 2 * inner),
            "taps": draw(keys[1], taps, inner),
            "delta": 0.1 * draw(keys[2], inner, inner),
            "delta_bias": jnp.full(inner, -2.0),
            "ins_outs": draw(keys[3], inner, 2 * states),
            "log_rate": jnp.log(jnp.arange(1.0, states + 1)) * jnp.ones((inner, 1)),
            "skip": jnp.ones(inner),
            "out": draw(keys[4], inner, width),
        }

    def apply(p, x_bth):
        u_btf, gate_btf = jnp.split(rms_norm(x_bth, p["norm"]) @ p["expand"], 2, -1)
        padded = jnp.pad(u_btf, ((0, 0), (taps - 1, 0), (0, 0)))
        u_btf = jax.nn.silu(sum(padded[:, k : k + size.time] * p["taps"][k] for k in range(taps)))
        delta_btf = jax.nn.softplus((u_btf @ p["delta"] + p["delta_bias"]).astype(jnp.float32))
        in_bts, out_bts = jnp.split((u_btf @ p["ins_outs"]).astype(jnp.float32), 2, -1)
        decay_btfs = jnp.exp(-delta_btf[..., None] * jnp.exp(p["log_rate"].astype(jnp.float32)))
        drive_btfs = (delta_btf * u_btf)[..., None] * in_bts[:, :, None, :]
        y_btf = jnp.einsum("btfs,bts->btf", run(decay_btfs, drive_btfs), out_bts).astype(u_btf.dtype)
        y_btf = (y_btf + p["skip"] * u_btf) * jax.nn.silu(gate_btf)
        return x_bth + y_btf @ p["out"]

    return layers(init, apply, normal(1, size.batch, size.time, width), size, dtype)


def mamba(dtype: Any, size: Size) -> Stack:
    """A selective state space, computed by a parallel prefix sum; A. Gu and T. Dao, 2023."""
    return _selective(_in_parallel, dtype, size)


def state_space(dtype: Any, size: Size) -> Stack:
    """The same state space, computed by a scan over time inside the layer."""
    return _selective(_in_turn, dtype, size)
