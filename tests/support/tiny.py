"""A model small enough that a step compiles in about a second."""

import dataclasses

import jax
import numpy as np

from bwsk_jax import bert

MASK_ID = 4
CONFIG = bert.BertConfig(
    vocab_size=61,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=24,
)
WITHOUT_DROPOUT = dataclasses.replace(CONFIG, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


def params(seed: int = 0):
    """Return fresh parameters, which a step may donate."""
    return bert.init_params(CONFIG, jax.random.key(seed))


def tokens(*shape: int, seed: int = 0) -> np.ndarray:
    """Return random ordinary token ids."""
    return np.random.default_rng(seed).integers(5, CONFIG.vocab_size, shape, np.int32)
