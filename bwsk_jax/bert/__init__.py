"""BERT for masked language modelling: configuration and function."""

from bwsk_jax.bert.config import PRESETS, BertConfig, BertConfigError
from bwsk_jax.bert.model import BertInputError, encode, forward, init_params, layer_body, predict

__all__ = [
    "PRESETS",
    "BertConfig",
    "BertConfigError",
    "BertInputError",
    "encode",
    "forward",
    "init_params",
    "layer_body",
    "predict",
]
