"""Strictness for every test: no implicit promotion of rank, and no network."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
