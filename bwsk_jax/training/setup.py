"""What a run consists of, once its flags are resolved: the step it compiles, and the data it trains on."""

import contextlib
import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import bwsk_jax
from bwsk_jax import bert
from bwsk_jax.targets import CompiledProgram, Target, compile_for, find_target
from bwsk_jax.training.data.hub import public_name
from bwsk_jax.training.data.windows import Windows
from bwsk_jax.training.flags import DTYPES, Flags
from bwsk_jax.training.recipe import LEARNING_RATES, Recipe
from bwsk_jax.training.step.evaluation import EvaluationSet, HeldOut
from bwsk_jax.training.step.optimizer import make_optimizer
from bwsk_jax.training.step.placement import Placement
from bwsk_jax.training.step.train_step import TrainState, make_train_step, state_shapes
from bwsk_jax.variants import Variant


@dataclass(frozen=True)
class StepSetup:
    """What a compiled training step follows from: neither text nor parameters are needed for it.

    Raises `PlanError` if the limit in `flags` is below the least possible.
    """

    flags: Flags
    variant: Variant
    recipe: Recipe
    config: bert.BertConfig
    mask_id: int
    pieces: int
    """The size of the tokenizer's vocabulary. The model's may be padded to a larger one."""
    unmasked: tuple[int, ...]
    """The ids that windows have around documents, which are never masked."""
    total_steps: int
    plan: bwsk_jax.Plan | None = field(init=False)
    """The plan of one encoder layer, for the windows of all devices; None for a variant that has none."""

    def __post_init__(self):
        object.__setattr__(self, "plan", self.plan_layer() if self.variant.plans else None)

    @property
    def dtype(self) -> Any:
        """What the model computes in."""
        return getattr(jnp, DTYPES[self.flags.precision])

    @property
    def peak_lr(self) -> float:
        """The highest learning rate of the schedule."""
        return self.flags.lr or getattr(self.recipe, LEARNING_RATES[self.variant.experiment])

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """The optimizer with its schedule."""
        return make_optimizer(self.peak_lr, self.total_steps, self.recipe)

    @property
    def scan(self) -> Callable:
        """How the encoder scans over its layers."""
        if not self.variant.inverts:
            return jax.lax.scan
        return functools.partial(bwsk_jax.reversible_scan, **self._limits)

    @property
    def encoder(self) -> tuple[Callable, Any, Any]:
        """The scan body of an encoder layer, the carry and what the encoder scans over, as shapes."""
        return bert.abstract_encoder(self.config, self.recipe.batch_size, self.recipe.seq_len, self.dtype)

    @property
    def placement(self) -> Placement:
        """How the state and the windows lie on the devices."""
        return Placement.parse(self.flags.mesh)

    @property
    def state(self) -> TrainState:
        """The state before the first step, as shapes."""
        return self.placement.typed(state_shapes(self.config, self.optimizer, dtype=self.dtype))

    @property
    def parameters(self) -> int:
        """How many numbers the model has to learn."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.state.params))

    def plan_layer(self) -> bwsk_jax.Plan:
        """Return the plan of one encoder layer within the limits that `flags` give."""
        with self.target.tracing():
            return bwsk_jax.plan_scan(*self.encoder, **self._limits)

    def frontier(self) -> list[bwsk_jax.Plan]:
        """Return the plans of one encoder layer, from least memory to no overhead."""
        with self.target.tracing():
            return bwsk_jax.frontier(*self.encoder)

    @property
    def target(self) -> Target:
        """The machine that the step is compiled for."""
        return find_target(self.flags.target)

    def program(self) -> tuple[Callable, tuple[Any, ...]]:
        """The step, and the shapes of its arguments: the state, token ids [A, B, T] and a key."""
        recipe = self.recipe
        step = make_train_step(
            self.config,
            self.optimizer,
            self.mask_id,
            random_pieces=self.pieces if self.flags.masking == "bert" else None,
            mask_rate=recipe.mask_rate,
            unmasked=self.unmasked,
            dtype=self.dtype,
            scan=self.scan,
            placement=self.placement,
        )
        shape_abt = (recipe.grad_accum, recipe.batch_size, recipe.seq_len)
        tokens_abt = self.placement.typed_windows(shape_abt, axis=1)
        key = jax.eval_shape(lambda: jax.random.key(0, impl="rbg"))
        return step, (self.state, tokens_abt, key)

    def compile(self) -> CompiledProgram:
        """Compile the step for its target, from shapes alone. Raises `DoesNotFitError`."""
        step, args = self.program()
        return compile_for(step, *args, target=self.target)

    def per_device(self, plan_bytes: int) -> int:
        """Return what a device has of bytes that a plan counts, which are in parts for its windows."""
        return plan_bytes // self.placement.shards

    def peak_bytes(self) -> int:
        """Compile the step and return its compiled peak, that of one device."""
        return self.compile().peak_bytes

    @property
    def _limits(self) -> dict[str, Any]:
        per_device = self.flags.max_bytes
        of_all = None if per_device is None else per_device * self.placement.shards
        return {"max_overhead": self.flags.max_overhead, "max_bytes": of_all}


@dataclass(frozen=True)
class Setup(StepSetup):
    """A run that can start: its step, its first parameters, and its text as windows of token ids."""

    params: Any
    tokenizer: Any
    train_windows: Windows
    text_digest: str
    """Another one for other tokens in any of the splits, or other documents if windows depend on them."""
    validation: EvaluationSet
    """What the model is measured on during training."""
    test: EvaluationSet
    final_validation: HeldOut
    """What the exported model is measured on in the end, as on `final_test`."""
    final_test: HeldOut
    unigram_perplexity: float
    """On the masked tokens of `validation`. The next two are on those of the final sets."""
    final_validation_unigram: float
    final_test_unigram: float
    pooler: Mapping[str, np.ndarray] = field(default_factory=dict)
    """That of the model which is fine-tuned, and its next-sentence head, if it has them: they are exported
    unchanged."""
    sentence_files: Mapping[str, Path] = field(default_factory=dict)
    """Those of sentence-transformers, which are exported unchanged too."""
    notes: tuple[str, ...] = ()
    """What the user should know before the run starts, a line each."""

    @property
    def root(self) -> Path:
        """The folder that gathers the variants."""
        return Path(self.flags.out)

    @property
    def folder(self) -> Path:
        """The folder of this variant."""
        return self.root / self.variant.name

    @property
    def log_folder(self) -> Path | None:
        """The folder of this variant's TensorBoard events, if any are wanted."""
        return Path(self.flags.log_dir, self.variant.name) if self.flags.log_dir else None

    @property
    def model_slug(self) -> str:
        """The model's short name, as in the results: that of the model which is fine-tuned, or the preset's.

        A model that this program trained keeps its name.
        """
        init = self.flags.init
        if init is None:
            return f"bert-{self.flags.preset}"
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            return str(json.loads(Path(init, "training_results.json").read_text("utf-8"))["model_slug"])
        return public_name(init).rpartition("/")[2]
