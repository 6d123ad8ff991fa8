"""Linen modules of BERT and its siblings: the layer, the embeddings and the masked-LM head.

Every projection, dropout, activation and layer norm is a module of its own, so that the name stack of a jaxpr
tells which one an equation belongs to; the dropout inside attention is a scope with a name. Parameters are
float32; ``dtype`` is the type of the computation. Layer-norm statistics, the softmax of the attention and the
logits are float32 whatever ``dtype`` is.

Axes: B batch, T sequence (S where it is attended to), H hidden, N heads, D head width, F feed-forward,
V vocabulary.
"""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from bwsk_jax.bert.attention import attend
from bwsk_jax.bert.config import ACTIVATIONS, BertConfig
from bwsk_jax.bert.dropout import drawn, dropped, inflation, threshold_of

__all__ = ["Embeddings", "Layer", "MaskedLMHead", "affine"]


# --- leaves -------------------------------------------------------------------------------------------------


class Dropout(nn.Module):
    """Zero elements with probability ``rate`` and scale the others to keep the expectation.

    A 16-bit comparison decides an element, so the rate is rounded to a multiple of 2**-16; the scale is that
    of the rounded rate.
    """

    rate: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Drop elements of ``x`` by the bits of the ``dropout`` stream; return ``dtype``."""
        threshold = threshold_of(self.rate)
        if threshold == 0:
            return x.astype(self.dtype)
        kept = drawn(self.make_rng("dropout"), x.shape, threshold)
        # Scale in float32: rounded to bfloat16, the factor would bias every dropout the same way.
        return dropped((x.astype(jnp.float32) * inflation(threshold)).astype(self.dtype), kept)


class LayerNorm(nn.Module):
    """Normalise the last axis by its mean and true variance, in float32; return ``dtype``.

    Without ``scaled`` it is the normalised values alone, and who reads them applies scale and bias.
    """

    epsilon: float
    dtype: DTypeLike
    scaled: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return scale * (x - mean) / sqrt(variance + epsilon) + bias."""
        normalised: jax.Array = _normalised(x.astype(jnp.float32), self.epsilon, self.dtype)
        if not self.scaled:
            return normalised
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        return affine(normalised, scale, bias)


def affine(normalised: jax.Array, scale_h: jax.Array, bias_h: jax.Array) -> jax.Array:
    """Return normalised * scale + bias, computed in float32, in the type of ``normalised``."""
    broadcast = (1,) * (normalised.ndim - 1) + scale_h.shape
    wide = normalised.astype(jnp.float32) * scale_h.reshape(broadcast) + bias_h.reshape(broadcast)
    return wide.astype(normalised.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _normalised(x: jax.Array, epsilon: float, dtype: DTypeLike) -> jax.Array:
    """Return (x - mean) / sqrt(variance + epsilon) over the last axis of float32 ``x``, as ``dtype``.

    With n the result, r the reciprocal deviation of a row and g the cotangent of n, that of x is

        r * (g - mean(g) - n * mean(g * n)).

    So the backward pass reads the result itself, and one number a row: not x, which nothing else needs.
    """
    return _normalised_forward(x, epsilon, dtype)[0]


def _normalised_forward(x, epsilon, dtype):
    centered = x - x.mean(-1, keepdims=True)
    reciprocal = jax.lax.rsqrt(jnp.square(centered).mean(-1, keepdims=True) + epsilon)
    normalised = (centered * reciprocal).astype(dtype)
    return normalised, (normalised, reciprocal)


def _normalised_backward(epsilon, dtype, kept, cotangent):
    normalised, reciprocal = kept
    n, g = normalised.astype(jnp.float32), cotangent.astype(jnp.float32)
    along = (g * n).mean(-1, keepdims=True)
    return (reciprocal * (g - g.mean(-1, keepdims=True) - n * along),)


_normalised.defvjp(_normalised_forward, _normalised_backward)


class Activation(nn.Module):
    """The feed-forward nonlinearity, as a module so that it has a name."""

    name_in_config: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply the activation element by element."""
        return ACTIVATIONS[self.name_in_config](x)


class Decoder(nn.Module):
    """Project to the vocabulary by the transposed word embedding, plus a bias of its own."""

    @nn.compact
    def __call__(self, hidden: jax.Array, word_vh: jax.Array) -> jax.Array:
        """Return float32 logits [..., V] for hidden [..., H]."""
        vocab_size = word_vh.shape[0]
        bias = self.param("bias", nn.initializers.zeros, (vocab_size,), jnp.float32)
        logits = jnp.einsum(
            "...h,vh->...v", hidden, word_vh.astype(hidden.dtype), preferred_element_type=jnp.float32
        )
        return logits + bias.reshape((1,) * (hidden.ndim - 1) + (vocab_size,))


def _dense(config: BertConfig, features: int, dtype: DTypeLike, name: str) -> nn.Dense:
    kernel_init = nn.initializers.normal(config.initializer_range)
    return nn.Dense(features, dtype=dtype, kernel_init=kernel_init, name=name)


def _layer_norm(config: BertConfig, dtype: DTypeLike, scaled: bool = True) -> LayerNorm:
    return LayerNorm(config.layer_norm_eps, dtype, scaled, name="layer_norm")


# --- blocks -------------------------------------------------------------------------------------------------


def counted_tokens(input_ids_bt: jax.Array, pad_token_id: int) -> jax.Array:
    """Return positions [B, T] as RoBERTa has them: tokens from ``pad_token_id`` + 1 on, padding not counted.

    >>> counted_tokens(jnp.array([[1, 7, 8, 1, 9, 1]]), pad_token_id=1).tolist()
    [[1, 2, 3, 1, 4, 1]]
    """
    is_token_bt = (input_ids_bt != pad_token_id).astype(jnp.int32)
    return jnp.cumsum(is_token_bt, axis=1) * is_token_bt + pad_token_id


class Embeddings(nn.Module):
    """Sum of word, position and token-type embeddings, normalised and dropped out.

    Where the architecture has no token types, theirs is not read.
    """

    config: BertConfig
    dtype: DTypeLike
    train: bool

    @nn.compact
    def __call__(self, input_ids_bt: jax.Array, token_type_ids_bt: jax.Array) -> jax.Array:
        """Return hidden [B, T, H]."""
        config = self.config
        normal = nn.initializers.normal(config.initializer_range)

        def padded_normal(key, shape, dtype=jnp.float32, out_sharding=None):
            table = normal(key, shape, dtype, out_sharding)
            return table if config.pad_token_id is None else table.at[config.pad_token_id].set(0)

        def embed(rows, name, init=normal):
            return nn.Embed(rows, config.hidden_size, embedding_init=init, name=name)

        if (pad := config.counts_from) is None:
            positions_bt, of_positions = jnp.arange(input_ids_bt.shape[1])[None, :], normal
        else:
            positions_bt, of_positions = counted_tokens(input_ids_bt, pad), padded_normal
        hidden_bth = embed(config.vocab_size, "word", padded_normal)(input_ids_bt)
        if config.type_vocab_size:
            hidden_bth += embed(config.type_vocab_size, "token_type")(token_type_ids_bt)
        hidden_bth += embed(config.max_position_embeddings, "position", of_positions)(positions_bt)
        hidden_bth = _layer_norm(config, self.dtype)(hidden_bth)
        rate = config.hidden_dropout_prob if self.train else 0.0
        return Dropout(rate, self.dtype, name="dropout")(hidden_bth)


class Attention(nn.Module):
    """Multi-head self-attention, its output projection, and the residual layer norm."""

    config: BertConfig
    dtype: DTypeLike
    train: bool

    @nn.compact
    def __call__(self, hidden_bth: jax.Array, mask_b11s: jax.Array | None) -> jax.Array:
        """Return hidden [B, T, H]; ``mask_b11s`` is added to the scores, None adds nothing."""
        config = self.config
        heads = (*hidden_bth.shape[:2], config.num_attention_heads, config.head_size)
        rates = (
            (config.attention_probs_dropout_prob, config.hidden_dropout_prob) if self.train else (0.0, 0.0)
        )

        q_btnd = _dense(config, config.hidden_size, self.dtype, "query")(hidden_bth).reshape(heads)
        k_bsnd = _dense(config, config.hidden_size, self.dtype, "key")(hidden_bth).reshape(heads)
        v_bsnd = _dense(config, config.hidden_size, self.dtype, "value")(hidden_bth).reshape(heads)

        threshold = threshold_of(rates[0])
        key = self.make_rng("dropout") if threshold else None
        context_btnd: jax.Array = attend(q_btnd, k_bsnd, v_bsnd, mask_b11s, key, threshold)
        context_bth = context_btnd.reshape(hidden_bth.shape)

        output_bth = _dense(config, config.hidden_size, self.dtype, "output")(context_bth)
        output_bth = Dropout(rates[1], self.dtype, name="output_dropout")(output_bth)
        return _layer_norm(config, self.dtype)(hidden_bth + output_bth)


class FeedForward(nn.Module):
    """Up-projection, activation, down-projection, and the residual layer norm, ``scaled`` or not."""

    config: BertConfig
    dtype: DTypeLike
    train: bool
    scaled: bool

    @nn.compact
    def __call__(self, hidden_bth: jax.Array) -> jax.Array:
        """Return hidden [B, T, H]."""
        config = self.config
        x_btf = _dense(config, config.intermediate_size, self.dtype, "up")(hidden_bth)
        x_btf = Activation(config.hidden_act, name="activation")(x_btf)
        output_bth = _dense(config, config.hidden_size, self.dtype, "down")(x_btf)
        rate = config.hidden_dropout_prob if self.train else 0.0
        output_bth = Dropout(rate, self.dtype, name="dropout")(output_bth)
        return _layer_norm(config, self.dtype, self.scaled)(hidden_bth + output_bth)


class Layer(nn.Module):
    """One encoder layer: attention, then feed-forward.

    Without ``scaled`` its last layer norm leaves scale and bias to who reads the hidden states.
    """

    config: BertConfig
    dtype: DTypeLike = jnp.float32
    train: bool = False
    scaled: bool = True

    @nn.compact
    def __call__(self, hidden_bth: jax.Array, mask_b11s: jax.Array | None = None) -> jax.Array:
        """Return hidden [B, T, H]."""
        modes = (self.config, self.dtype, self.train)
        hidden_bth = Attention(*modes, name="attention")(hidden_bth, mask_b11s)
        return FeedForward(*modes, self.scaled, name="feed_forward")(hidden_bth)


class MaskedLMHead(nn.Module):
    """Transform hidden states and score them against the word embedding."""

    config: BertConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, hidden: jax.Array, word_vh: jax.Array) -> jax.Array:
        """Return float32 logits [..., V] for hidden [..., H]."""
        hidden = _dense(self.config, self.config.hidden_size, self.dtype, "transform")(hidden)
        hidden = Activation(self.config.head_act, name="activation")(hidden)
        hidden = _layer_norm(self.config, self.dtype)(hidden)
        return Decoder(name="decoder")(hidden, word_vh)
