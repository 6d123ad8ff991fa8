"""BERT, RoBERTa and DistilBERT for masked language modelling, and their exchange with Hugging Face.

`architectures` describes in what they differ. `config` holds sizes and presets, `modules` the Linen modules,
and `model` the function that they are parts of. `attention` and `dropout` are what two of the modules
compute. `abstract` has the same function over types, to be classified and planned, and `splits` says how its
parameters are split over devices. The room `huggingface` reads and writes folders of weights, and `tokenizer`
does the same for tokenizers. The names below are public.
"""

from bwsk_jax.bert.abstract import abstract_encoder, classify_training
from bwsk_jax.bert.config import PRESETS, BertConfig, BertConfigError
from bwsk_jax.bert.huggingface import (
    CheckpointError,
    holds_model,
    load_config,
    load_for_finetuning,
    load_pooler,
    load_pretrained,
    save_pretrained,
)
from bwsk_jax.bert.model import BertInputError, encode, forward, init_params, layer_body, predict
from bwsk_jax.bert.splits import param_specs
from bwsk_jax.bert.tokenizer import TokenizerError, load_tokenizer, save_tokenizer, train_tokenizer

__all__ = [
    "PRESETS",
    "BertConfig",
    "BertConfigError",
    "BertInputError",
    "CheckpointError",
    "TokenizerError",
    "abstract_encoder",
    "classify_training",
    "encode",
    "forward",
    "holds_model",
    "init_params",
    "layer_body",
    "load_config",
    "load_for_finetuning",
    "load_pooler",
    "load_pretrained",
    "load_tokenizer",
    "param_specs",
    "predict",
    "save_pretrained",
    "save_tokenizer",
    "train_tokenizer",
]
