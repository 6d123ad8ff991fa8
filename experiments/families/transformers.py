"""Transformer layers: post-norm, pre-norm, gated, with relative positions, with experts, or of MLPs alone."""

from __future__ import annotations

import functools
import math
from typing import Any

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
from flax import linen, nnx
from jax import lax

from bwsk_jax import bert
from experiments.families.libraries import from_equinox, from_haiku, from_linen, from_nnx
from experiments.families.stack import HEADS, Size, Stack, layers, normal

__all__ = [
    "bert_layer",
    "equinox_layer",
    "gpt2",
    "haiku_layer",
    "llama",
    "mixer",
    "mixture_of_experts",
    "t5",
    "vit",
]


def _hidden(size: Size) -> jax.Array:
    return normal(1, size.batch, size.time, size.width)


def bert_layer(dtype: Any, size: Size) -> Stack:
    """A whole layer of this package's BERT, post-norm and with dropout; J. Devlin et al., 2019."""
    config = bert.BertConfig(
        vocab_size=64,
        hidden_size=size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=HEADS,
        intermediate_size=4 * size.width,
    )
    params = bert.init_params(config, jax.random.key(0))["layers"]
    keys = jax.random.split(jax.random.key(1, impl="rbg"), size.layers)
    layer = bert.layer_body(config, dtype=dtype, train=True)
    return Stack(lambda _, hidden, x: layer(hidden, x), (), _hidden(size).astype(dtype), (params, keys))


class GPT2Layer(linen.Module):
    """Pre-norm and causal; A. Radford et al., 2019."""

    @linen.compact
    def __call__(self, x_bth):
        """Return hidden [B, T, H]."""
        width, mask = x_bth.shape[-1], linen.make_causal_mask(x_bth[..., 0])
        attention = linen.MultiHeadDotProductAttention(HEADS)
        x_bth = x_bth + attention(linen.LayerNorm()(x_bth), mask=mask)
        h_btf = linen.gelu(linen.Dense(4 * width)(linen.LayerNorm()(x_bth)))
        return x_bth + linen.Dense(width)(h_btf)


def gpt2(dtype: Any, size: Size) -> Stack:
    """GPT-2 from Linen's modules."""
    return layers(*from_linen(GPT2Layer(), _hidden(size)), _hidden(size), size, dtype)


class ViTLayer(nnx.Module):
    """Pre-norm, all to all; A. Dosovitskiy et al., 2021."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.norms = nnx.List([nnx.LayerNorm(width, rngs=rngs) for _ in range(2)])
        self.attention = nnx.MultiHeadAttention(HEADS, width, decode=False, rngs=rngs)
        self.up = nnx.Linear(width, 4 * width, rngs=rngs)
        self.down = nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, x_bth):
        """Return hidden [B, T, H]."""
        x_bth = x_bth + self.attention(self.norms[0](x_bth))
        return x_bth + self.down(nnx.gelu(self.up(self.norms[1](x_bth)), approximate=False))


def vit(dtype: Any, size: Size) -> Stack:
    """A vision transformer from NNX's modules."""
    pair = from_nnx(lambda rngs: ViTLayer(size.width, rngs))
    return layers(*pair, _hidden(size), size, dtype)


class EquinoxLayer(eqx.Module):
    """Pre-norm; Equinox modules take one example."""

    norms: list[eqx.nn.LayerNorm]
    attention: eqx.nn.MultiheadAttention
    feed_forward: eqx.nn.MLP

    def __init__(self, width: int, key: jax.Array):
        keys = jax.random.split(key)
        self.norms = [eqx.nn.LayerNorm(width), eqx.nn.LayerNorm(width)]
        self.attention = eqx.nn.MultiheadAttention(HEADS, width, key=keys[0])
        self.feed_forward = eqx.nn.MLP(width, width, 4 * width, 1, jax.nn.gelu, key=keys[1])

    def one(self, x_th):
        """Return hidden [T, H]."""
        h_th = jax.vmap(self.norms[0])(x_th)
        x_th = x_th + self.attention(h_th, h_th, h_th)
        return x_th + jax.vmap(lambda x_h: self.feed_forward(self.norms[1](x_h)))(x_th)

    def __call__(self, x_bth):
        """Return hidden [B, T, H]."""
        return jax.vmap(self.one)(x_bth)


def equinox_layer(dtype: Any, size: Size) -> Stack:
    """A transformer layer from Equinox's modules."""
    return layers(*from_equinox(lambda key: EquinoxLayer(size.width, key)), _hidden(size), size, dtype)


class MixerLayer(eqx.Module):
    """MLPs across positions, then across channels; I. Tolstikhin et al., 2021."""

    norms: list[eqx.nn.LayerNorm]
    across_tokens: eqx.nn.MLP
    across_channels: eqx.nn.MLP

    def __init__(self, time: int, width: int, key: jax.Array):
        keys = jax.random.split(key)
        self.norms = [eqx.nn.LayerNorm(width), eqx.nn.LayerNorm(width)]
        self.across_tokens = eqx.nn.MLP(time, time, 2 * time, 1, jax.nn.gelu, key=keys[0])
        self.across_channels = eqx.nn.MLP(width, width, 4 * width, 1, jax.nn.gelu, key=keys[1])

    def one(self, x_th):
        """Return hidden [T, H]."""
        x_th = x_th + jax.vmap(self.across_tokens, 1, 1)(jax.vmap(self.norms[0])(x_th))
        return x_th + jax.vmap(self.across_channels)(jax.vmap(self.norms[1])(x_th))

    def __call__(self, x_bth):
        """Return hidden [B, T, H]."""
        return jax.vmap(self.one)(x_bth)


def mixer(dtype: Any, size: Size) -> Stack:
    """MLP-Mixer from Equinox's modules."""
    pair = from_equinox(lambda key: MixerLayer(size.time, size.width, key))
    return layers(*pair, _hidden(size), size, dtype)


def _haiku_layer(x_bth):
    norm = functools.partial(hk.LayerNorm, -1, create_scale=True, create_offset=True)
    width, init = x_bth.shape[-1], hk.initializers.VarianceScaling(1.0)
    h_bth = norm()(x_bth)
    attention = hk.MultiHeadAttention(HEADS, width // HEADS, w_init=init, model_size=width)
    x_bth = x_bth + attention(h_bth, h_bth, h_bth)
    return x_bth + hk.nets.MLP([4 * width, width], activation=jax.nn.gelu)(norm()(x_bth))


def haiku_layer(dtype: Any, size: Size) -> Stack:
    """A pre-norm transformer layer from Haiku's modules."""
    return layers(*from_haiku(_haiku_layer, _hidden(size)), _hidden(size), size, dtype)


# --- in plain JAX -------------------------------------------------------------------------------------------


def _matrices(key: jax.Array, **shapes: tuple[int, ...]) -> dict[str, jax.Array]:
    """Return a parameter of each name and shape, scaled by its fan-in, the last axis but one."""
    keys = jax.random.split(key, len(shapes))
    draw = lambda key, shape: jax.random.normal(key, shape) / math.sqrt(shape[-2])
    return {name: draw(k, shape) for k, (name, shape) in zip(keys, shapes.items(), strict=True)}


def rms_norm(x: jax.Array, scale: jax.Array) -> jax.Array:
    """Return `x` divided by its root mean square, in float32, and scaled; B. Zhang and R. Sennrich, 2019."""
    wide = x.astype(jnp.float32)
    return (wide * lax.rsqrt(jnp.mean(wide * wide, -1, keepdims=True) + 1e-6)).astype(x.dtype) * scale


def _rotate(x_btnd: jax.Array) -> jax.Array:
    """Return the values with a rotary position embedding; J. Su et al., 2021."""
    time, half = x_btnd.shape[1], x_btnd.shape[-1] // 2
    angle_td = jnp.arange(time)[:, None] * 10000.0 ** (-jnp.arange(half) / half)
    cos, sin = jnp.cos(angle_td)[:, None], jnp.sin(angle_td)[:, None]
    a, b = jnp.split(x_btnd.astype(jnp.float32), 2, -1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(x_btnd.dtype)


def llama(dtype: Any, size: Size) -> Stack:
    """RMSNorm, rotary positions, grouped queries, SwiGLU; H. Touvron et al., 2023."""
    width, head, groups = size.width, size.width // HEADS, HEADS // 2
    inner = 8 * width // 3 // 4 * 4

    def init(key):
        matrices = _matrices(
            key,
            query=(width, width),
            key_value=(width, 2 * groups * head),
            out=(width, width),
            gate_up=(width, 2 * inner),
            down=(inner, width),
        )
        return matrices | {"norms": jnp.ones((2, width))}

    def apply(p, x_bth):
        h_bth = rms_norm(x_bth, p["norms"][0])
        heads = lambda a: a.reshape(*a.shape[:2], -1, head)
        query = _rotate(heads(h_bth @ p["query"]))
        key, value = jnp.split(heads(h_bth @ p["key_value"]), 2, 2)
        attended = jax.nn.dot_product_attention(query, _rotate(key), value, is_causal=True)
        x_bth = x_bth + attended.reshape(x_bth.shape) @ p["out"]
        gate, up = jnp.split(rms_norm(x_bth, p["norms"][1]) @ p["gate_up"], 2, -1)
        return x_bth + (jax.nn.silu(gate) * up) @ p["down"]

    return layers(init, apply, _hidden(size), size, dtype)


def _buckets(time: int, count: int = 32, furthest: int = 128) -> jax.Array:
    """Return T5's bucket of each distance from query to key [T, T]: exact when near, logarithmic when far."""
    distance = jnp.arange(time)[None] - jnp.arange(time)[:, None]
    half, exact = count // 2, count // 4
    near = jnp.abs(distance)
    far = jnp.log(jnp.maximum(near, 1) / exact) / math.log(furthest / exact) * (half - exact)
    far = jnp.minimum(exact + far.astype(jnp.int32), half - 1)
    return jnp.where(distance > 0, half, 0) + jnp.where(near < exact, near, far)


def t5(dtype: Any, size: Size) -> Stack:
    """RMSNorm, unscaled attention, one table of relative positions for all layers; C. Raffel et al., 2020."""
    width, head = size.width, size.width // HEADS

    def init(key):
        matrices = _matrices(
            key, qkv=(width, 3 * width), out=(width, width), up=(width, 4 * width), down=(4 * width, width)
        )
        return matrices | {"norms": jnp.ones((2, width))}

    def apply(p, x_bth, table):
        bias_nts = table[_buckets(size.time)].transpose(2, 0, 1)[None]
        qkv = (rms_norm(x_bth, p["norms"][0]) @ p["qkv"]).reshape(*x_bth.shape[:2], 3 * HEADS, head)
        attended = jax.nn.dot_product_attention(*jnp.split(qkv, 3, 2), bias=bias_nts, scale=head**-0.5)
        x_bth = x_bth + attended.reshape(x_bth.shape) @ p["out"]
        return x_bth + jax.nn.relu(rms_norm(x_bth, p["norms"][1]) @ p["up"]) @ p["down"]

    return layers(init, apply, _hidden(size), size, dtype, shared=(normal(2, 32, HEADS, scale=0.1),))


def mixture_of_experts(dtype: Any, size: Size, experts: int = 4, chosen: int = 2) -> Stack:
    """Each token through the two experts that the router prefers, sorted by expert; A. Jiang et al., 2024."""
    width = size.width

    def init(key):
        matrices = _matrices(
            key, router=(width, experts), up=(experts, width, 2 * width), down=(experts, 2 * width, width)
        )
        return matrices | {"norm": jnp.ones(width)}

    def apply(p, x_bth):
        tokens = rms_norm(x_bth, p["norm"]).reshape(-1, width)
        score, expert = lax.top_k((tokens @ p["router"]).astype(jnp.float32), chosen)
        order = jnp.argsort(expert.reshape(-1))
        sizes = jnp.bincount(expert.reshape(-1), length=experts)
        h = jax.nn.silu(lax.ragged_dot(tokens[order // chosen], p["up"], sizes))
        h = lax.ragged_dot(h, p["down"], sizes)
        h = h[jnp.argsort(order)].reshape(-1, chosen, width)
        mixed = jnp.einsum("nk,nkh->nh", jax.nn.softmax(score).astype(h.dtype), h)
        return x_bth + mixed.reshape(x_bth.shape)

    return layers(init, apply, _hidden(size), size, dtype)
