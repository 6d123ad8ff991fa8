"""What training differentiates, with types in place of arrays, so that it is classified and planned unrun."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from bwsk_jax.bert.config import BertConfig
from bwsk_jax.bert.model import encode, encoder_body, encoder_xs, init_params, predict
from bwsk_jax.classification.classify import classify
from bwsk_jax.classification.report import Report

__all__ = ["abstract_encoder", "classify_training"]


def classify_training(
    config: BertConfig,
    batch_size: int,
    seq_len: int,
    dtype: Any = jnp.float32,
    taxonomy: Literal["strict", "reference"] = "strict",
) -> Report:
    """Return the report on the logits of training with dropout; it follows the information of the tokens.

    >>> config = BertConfig(64, hidden_size=8, num_hidden_layers=3, num_attention_heads=2)
    >>> classify_training(config, 2, 5, taxonomy="reference").leaf_modules
    {'S': 31, 'K': 14}
    """
    params, key = _params(config), _key()
    tokens = jax.ShapeDtypeStruct((batch_size, seq_len), jnp.int32)

    def logits(params, tokens, key):
        return predict(config, params, encode(config, params, tokens, dropout_key=key, dtype=dtype))

    return classify(logits, params, tokens, key, wrt=1, taxonomy=taxonomy)


def abstract_encoder(
    config: BertConfig, batch_size: int, seq_len: int, dtype: Any = jnp.float32
) -> tuple[Callable, jax.ShapeDtypeStruct, tuple[Any, Any]]:
    """Return what the encoder scans in training: the body of a layer, the carry, and what it scans over.

    >>> config = BertConfig(64, hidden_size=8, num_hidden_layers=3, num_attention_heads=2)
    >>> body, carry_bth, xs = abstract_encoder(config, 2, 5)
    >>> jax.eval_shape(lambda carry, xs: jax.lax.scan(body, carry, xs)[0], carry_bth, xs).shape
    (2, 5, 8)
    """
    keys = jax.ShapeDtypeStruct((config.num_hidden_layers,), _key().dtype)
    carry_bth = jax.ShapeDtypeStruct((batch_size, seq_len, config.hidden_size), dtype)
    xs = jax.eval_shape(encoder_xs, _params(config)["layers"], keys)
    return encoder_body(config, dtype=dtype, train=True), carry_bth, xs


def _params(config: BertConfig) -> Any:
    return jax.eval_shape(lambda: init_params(config, jax.random.key(0)))


def _key() -> Any:
    return jax.eval_shape(lambda: jax.random.key(0, impl="rbg"))
