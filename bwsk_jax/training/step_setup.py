"""What a compiled training step follows from: flags, model and schedule, but neither text nor parameters."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import optax

import bwsk_jax
from bwsk_jax import bert
from bwsk_jax.training.optimizer import make_optimizer
from bwsk_jax.training.options import Options
from bwsk_jax.training.precision import DTYPES
from bwsk_jax.training.recipe import Recipe
from bwsk_jax.training.step import TrainState, compile_step, compiled_peak_bytes, state_shapes
from bwsk_jax.variants import Variant


@dataclass(frozen=True)
class StepSetup:
    """A step that can be compiled. `plan` is that of one encoder layer, None for a variant without one.

    Raises `PlanError` where the limit in `options` is below the least possible.
    """

    options: Options
    variant: Variant
    recipe: Recipe
    config: bert.BertConfig
    mask_id: int
    pieces: int
    """Of the tokenizer; the model may have more rows."""
    total_steps: int
    plan: bwsk_jax.Plan | None = field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "plan", self._plan() if self.variant.plans else None)

    @property
    def dtype(self) -> Any:
        """What the model computes in."""
        return DTYPES[self.options.precision]

    @property
    def peak_lr(self) -> float:
        """The highest learning rate of the schedule."""
        finetunes = self.variant.experiment == "finetune"
        return self.options.lr or (self.recipe.finetune_lr if finetunes else self.recipe.scratch_lr)

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """The optimizer with its schedule."""
        return make_optimizer(self.peak_lr, self.total_steps)

    @property
    def scan(self) -> Callable:
        """How the encoder goes through its layers."""
        if not self.variant.inverts:
            return jax.lax.scan
        return functools.partial(bwsk_jax.reversible_scan, **self._limits)

    @property
    def encoder_layer(self) -> tuple[Callable, Any, Any]:
        """The scan body of one encoder layer, its carry and what it scans over, as shapes."""
        return bert.abstract_layer(self.config, self.recipe.batch_size, self.recipe.seq_len, self.dtype)

    @property
    def state(self) -> TrainState:
        """The state before the first step, as shapes."""
        return state_shapes(self.config, self.optimizer, dtype=self.dtype)

    def compile(self) -> jax.stages.Compiled:
        """Compile the step from shapes alone."""
        recipe = self.recipe
        return compile_step(
            self.config,
            self.optimizer,
            self.mask_id,
            (recipe.grad_accum, recipe.batch_size, recipe.seq_len),
            random_pieces=self.pieces if self.options.masking == "bert" else None,
            dtype=self.dtype,
            scan=self.scan,
        )

    def peak_bytes(self) -> int:
        """Compile the step and return its compiled peak."""
        return compiled_peak_bytes(self.compile())

    @property
    def _limits(self) -> dict[str, Any]:
        return {"max_overhead": self.options.max_overhead, "max_bytes": self.options.max_bytes}

    def _plan(self) -> bwsk_jax.Plan:
        return bwsk_jax.plan_scan(*self.encoder_layer, **self._limits, length=self.config.num_hidden_layers)
