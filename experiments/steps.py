"""The training step of a BERT in each of the ways to run its backward pass."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import bwsk_jax
from bwsk_jax import bert
from bwsk_jax.training.step.optimizer import make_optimizer
from bwsk_jax.training.step.train_step import make_train_step, state_shapes

__all__ = ["MASK_ID", "OPTIMIZER", "SCANS", "abstract_step", "make_step"]

SCANS: dict[str, Callable] = {
    "conventional": jax.lax.scan,
    "jax.checkpoint": lambda body, init, xs: jax.lax.scan(jax.checkpoint(body), init, xs),
    "reversible, default": bwsk_jax.reversible_scan,
    "reversible, least memory": functools.partial(
        bwsk_jax.reversible_scan, max_overhead=bwsk_jax.LEAST_MEMORY
    ),
}
"""How the encoder scans over its layers; all compute the same function."""
MASK_ID = 103
OPTIMIZER = make_optimizer(3e-4, 100)


def make_step(config: bert.BertConfig, way: str, dtype: Any) -> jax.stages.Wrapped:
    """Return the jitted step `(state, tokens_abt, key) -> (state, loss)`, which donates the state."""
    return make_train_step(config, OPTIMIZER, MASK_ID, dtype=dtype, scan=SCANS[way])


def abstract_step(
    config: bert.BertConfig, way: str, dtype: Any, batch_size: int, seq_len: int
) -> tuple[Callable, Any, Any, Any]:
    """Return the step and the shapes of its arguments, for one micro-batch."""
    tokens_abt = jax.ShapeDtypeStruct((1, batch_size, seq_len), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0, impl="rbg"))
    return make_step(config, way, dtype), state_shapes(config, OPTIMIZER, dtype=dtype), tokens_abt, key
