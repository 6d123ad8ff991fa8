"""The training step in JAX, by each way to run the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bwsk_jax import bert
from bwsk_jax.targets import compile_for
from bwsk_jax.training.step.train_step import initial_state
from experiments.against_pytorch.batch import Batch
from experiments.steps import OPTIMIZER, SCANS, make_step

__all__ = ["WAYS", "Ours"]

WAYS = SCANS


class Ours:
    """A state that the ways share, so that it is in memory once. It takes over `params`."""

    def __init__(self, config: bert.BertConfig, params: Any, batch: Batch, precision: str):
        self.config, self.dtype = config, jnp.dtype(precision)
        self.state = initial_state(params, OPTIMIZER, dtype=self.dtype)
        self.tokens_abt = jnp.asarray(batch.tokens_bt)[None]
        self.key = jax.random.key(0, impl="rbg")

    def stepper(self, name: str) -> tuple[Callable[[], float], int]:
        """Return the step of a way, which has run once and returns its loss, and its compiled peak."""
        program = compile_for(make_step(self.config, name, self.dtype), self.state, self.tokens_abt, self.key)

        def step() -> float:
            self.state, loss = program.compiled(self.state, self.tokens_abt, self.key)
            jax.block_until_ready(self.state)
            return float(loss)

        step()
        return step, program.peak_bytes
