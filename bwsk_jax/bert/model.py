"""The masked-LM function of BERT and its siblings, in plain JAX around the Linen modules of its parts.

The function is that of transformers' ``BertForMaskedLM`` (Devlin et al. 2019, arXiv:1810.04805), or that of
the class for ``model_type`` which ``bwsk_jax.bert.architectures`` describes. The parameters of the layers are
stacked on a leading axis, and the caller chooses the scan that goes through them: ``jax.lax.scan``, or a
reversible scan with the same signature. Parameters are float32; ``dtype`` is the type of the computation.

Axes: B batch, T sequence, H hidden, V vocabulary, L layers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from bwsk_jax.bert.config import BertConfig
from bwsk_jax.bert.modules import Embeddings, Layer, MaskedLMHead, affine
from bwsk_jax.errors import UserError

__all__ = [
    "BertInputError",
    "Params",
    "encode",
    "encoder_body",
    "encoder_xs",
    "forward",
    "init_params",
    "layer_body",
    "predict",
]

Params = dict[str, Any]


class BertInputError(UserError):
    """Token ids, a mask or token types have a shape or type that the model cannot take."""


@functools.partial(jax.jit, static_argnums=0)
def init_params(config: BertConfig, key: jax.Array) -> Params:
    """Draw fresh float32 parameters: kernels and tables from N(0, initializer_range), as BERT does.

    Biases and the [PAD] row of the word embedding are 0, layer-norm scales 1. Every array under ``"layers"``
    has a leading axis L.

    >>> config = BertConfig(vocab_size=64, hidden_size=8, num_hidden_layers=3, num_attention_heads=2)
    >>> params = init_params(config, jax.random.key(0))
    >>> params["layers"]["attention"]["query"]["kernel"].shape
    (3, 8, 8)
    """
    embeddings_key, layers_key, head_key = jax.random.split(key, 3)
    ids_bt = jnp.zeros((1, 1), jnp.int32)
    hidden_bth = jnp.zeros((1, 1, config.hidden_size), jnp.float32)
    embeddings = Embeddings(config, jnp.float32, train=False).init(embeddings_key, ids_bt, ids_bt)["params"]
    layers = jax.vmap(lambda k: Layer(config).init(k, hidden_bth)["params"])(
        jax.random.split(layers_key, config.num_hidden_layers)
    )
    head = MaskedLMHead(config).init(head_key, hidden_bth, embeddings["word"]["embedding"])["params"]
    return {"embeddings": embeddings, "layers": layers, "head": head}


def layer_body(
    config: BertConfig, *, dtype: DTypeLike, train: bool, attention_mask: jax.Array | None = None
) -> Callable[[jax.Array, tuple[Params, jax.Array | None]], tuple[jax.Array, None]]:
    """Return the scan body of the encoder: ``body(hidden_bth, (layer_params, key)) -> (hidden_bth, None)``.

    ``attention_mask`` [B, T] is nonzero where a position may be attended to; None masks nothing and costs
    nothing. The mask is closed over, so a scan hoists it. ``key`` is ignored, and may be None, unless
    ``train``.

    >>> config = BertConfig(64, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    >>> body = layer_body(config, dtype=jnp.float32, train=False)
    >>> first = jax.tree.map(lambda x: x[0], init_params(config, jax.random.key(0))["layers"])
    >>> body(jnp.ones((1, 5, 8)), (first, None))[0].shape
    (1, 5, 8)
    """
    layer = _layer_function(Layer(config, dtype, train), attention_mask)

    def body(hidden_bth, inputs):
        return layer(hidden_bth, *inputs), None

    return body


def encoder_body(
    config: BertConfig, *, dtype: DTypeLike, train: bool, attention_mask: jax.Array | None = None
) -> Callable[[jax.Array, Any], tuple[jax.Array, None]]:
    """Return the body that ``encode`` scans over what ``encoder_xs`` gives; arguments as for ``layer_body``.

    The carry is what the last layer norm of a layer has normalised. Its scale and bias are applied where the
    next layer reads it. So the backward pass of a layer norm knows all that it reads, but for a number a row.

    >>> config = BertConfig(64, hidden_size=8, num_hidden_layers=3, num_attention_heads=2)
    >>> xs = encoder_xs(init_params(config, jax.random.key(0))["layers"])
    >>> jax.lax.scan(encoder_body(config, dtype=jnp.float32, train=False), jnp.ones((1, 5, 8)), xs)[0].shape
    (1, 5, 8)
    """
    layer = _layer_function(Layer(config, dtype, train, scaled=False), attention_mask)

    def body(normalised_bth, inputs):
        layer_params, before, key = inputs
        with jax.named_scope("Layer/feed_forward/layer_norm"):
            hidden_bth = affine(normalised_bth, *before)
        return layer(hidden_bth, layer_params, key), None

    return body


def encoder_xs(layers: Params, keys: jax.Array | None = None) -> tuple[Params, Any, jax.Array | None]:
    """Return what ``encoder_body`` is scanned over: layers, scale and bias of the layer norms before, keys.

    Before the first layer stands none, which is a scale of 1 and a bias of 0.
    """
    scale_lh, bias_lh = _last_norms(layers)
    before = (
        jnp.concatenate([jnp.ones_like(scale_lh[:1]), scale_lh[:-1]]),
        jnp.concatenate([jnp.zeros_like(bias_lh[:1]), bias_lh[:-1]]),
    )
    return layers, before, keys


def _last_norms(layers: Params) -> tuple[jax.Array, jax.Array]:
    """Scale and bias [L, H] of the last layer norm of each layer."""
    norms = layers["feed_forward"]["layer_norm"]
    return norms["scale"], norms["bias"]


def _layer_function(layer: Layer, attention_mask: jax.Array | None) -> Callable[..., jax.Array]:
    """Return the layer as a function of hidden states, parameters, and the key of its dropout."""
    mask_b11s = None if attention_mask is None else _additive_mask(attention_mask)

    def run(hidden_bth, params, key):
        return _apply(layer, params, hidden_bth, mask_b11s, key=key if layer.train else None)

    return run


def _apply(module: nn.Module, params: Params, *inputs: Any, key: jax.Array | None = None) -> jax.Array:
    """Return what a module computes of its inputs; ``key`` draws its dropout."""
    rngs = None if key is None else {"dropout": key}
    output = module.apply({"params": params}, *inputs, rngs=rngs)
    return cast(jax.Array, output)  # the declared type of `apply` is that of all modules, mutable ones too


def encode(
    config: BertConfig,
    params: Params,
    input_ids: jax.Array,
    attention_mask: jax.Array | None = None,
    token_type_ids: jax.Array | None = None,
    *,
    dropout_key: jax.Array | None = None,
    dtype: DTypeLike = jnp.float32,
    scan: Callable[..., Any] = jax.lax.scan,
) -> jax.Array:
    """Return the last hidden states [B, T, H] of type ``dtype`` for ``input_ids`` [B, T].

    Args:
        config: the model's sizes.
        params: what ``init_params`` returns.
        input_ids: integers below V. RoBERTa numbers the positions of a row by its ids, not by the mask:
            tokens other than ``pad_token_id`` are counted. Its padding therefore has to be ``pad_token_id``,
            and may stand on either side.
        attention_mask: [B, T], nonzero where a position may be attended to; None attends everywhere, also
            to padding.
        token_type_ids: [B, T] integers below ``type_vocab_size``; None is all 0.
        dropout_key: a typed key of any implementation; None computes without dropout.
        dtype: float32 or bfloat16, the type of the computation.
        scan: ``scan(body, init, xs) -> (carry, ys)``: how the stack of layers is walked.

    Raises:
        BertInputError: ids of another rank or type, more positions than the model has, other shapes of
            mask or token types, token types for an architecture that has none.

    >>> config = BertConfig(64, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    >>> params = init_params(config, jax.random.key(0))
    >>> encode(config, params, jnp.ones((2, 5), jnp.int32), dropout_key=jax.random.key(1)).shape
    (2, 5, 8)
    """
    _check_inputs(config, input_ids, attention_mask, token_type_ids)
    if token_type_ids is None:
        token_type_ids = jnp.zeros_like(input_ids)
    train = dropout_key is not None
    embeddings_key, layer_keys = None, None
    if dropout_key is not None:
        keys = jax.random.split(dropout_key, config.num_hidden_layers + 1)
        embeddings_key, layer_keys = keys[0], keys[1:]
    embeddings = Embeddings(config, dtype, train)
    hidden_bth = _apply(embeddings, params["embeddings"], input_ids, token_type_ids, key=embeddings_key)
    body = encoder_body(config, dtype=dtype, train=train, attention_mask=attention_mask)
    normalised_bth, _ = scan(body, hidden_bth, encoder_xs(params["layers"], layer_keys))
    scale_lh, bias_lh = _last_norms(params["layers"])
    return affine(normalised_bth, scale_lh[-1], bias_lh[-1])


def predict(config: BertConfig, params: Params, hidden: jax.Array) -> jax.Array:
    """Return float32 logits [..., V] for ``hidden`` [..., H]: all positions, or only gathered ones.

    Computes in the type of ``hidden``; the product with the word embedding accumulates in float32.

    >>> config = BertConfig(64, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    >>> predict(config, init_params(config, jax.random.key(0)), jnp.ones((7, 8))).shape
    (7, 64)
    """
    word_vh = params["embeddings"]["word"]["embedding"]
    return _apply(MaskedLMHead(config, hidden.dtype), params["head"], hidden, word_vh)


def forward(
    config: BertConfig,
    params: Params,
    input_ids: jax.Array,
    attention_mask: jax.Array | None = None,
    token_type_ids: jax.Array | None = None,
    *,
    dtype: DTypeLike = jnp.float32,
) -> jax.Array:
    """Return the float32 logits [B, T, V] of every position, without dropout.

    Arguments and errors are those of ``encode``.

    >>> config = BertConfig(64, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    >>> forward(config, init_params(config, jax.random.key(0)), jnp.ones((2, 5), jnp.int32)).shape
    (2, 5, 64)
    """
    return predict(
        config, params, encode(config, params, input_ids, attention_mask, token_type_ids, dtype=dtype)
    )


def _additive_mask(attention_mask: jax.Array) -> jax.Array:
    """Return [B, 1, 1, S]: 0 where attended to, the least float32 elsewhere."""
    visible = jnp.asarray(attention_mask)[:, None, None, :] != 0
    return jnp.where(visible, jnp.float32(0), jnp.finfo(jnp.float32).min)


def _check_inputs(config, input_ids, attention_mask, token_type_ids):
    if input_ids.ndim != 2 or not jnp.issubdtype(input_ids.dtype, jnp.integer):
        raise BertInputError(
            f"input_ids is {input_ids.dtype}{list(input_ids.shape)}, expected integers of shape [B, T]"
        )
    if input_ids.shape[1] > config.longest_input:
        raise BertInputError(
            f"input_ids has {input_ids.shape[1]} positions, but the model takes {config.longest_input} "
            f"(max_position_embeddings={config.max_position_embeddings}); use shorter windows"
        )
    if token_type_ids is not None and not config.type_vocab_size:
        raise BertInputError(f"token_type_ids are given, but {config.model_type} has no token types")
    for name, value in (("attention_mask", attention_mask), ("token_type_ids", token_type_ids)):
        if value is not None and value.shape != input_ids.shape:
            raise BertInputError(
                f"{name} has shape {value.shape}, expected that of input_ids, {input_ids.shape}"
            )
