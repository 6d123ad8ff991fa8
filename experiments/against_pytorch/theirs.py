"""The training step in PyTorch: transformers' BertForMaskedLM, AdamW, and each way to save memory."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch._functorch.config
import transformers

from bwsk_jax import bert
from bwsk_jax.training.recipe import Recipe
from experiments.against_pytorch.batch import Batch

__all__ = ["WAYS", "Theirs", "Way", "version"]

RECIPE = Recipe()
LEARNING_RATE = 3e-4
BUDGET = 0.5


@dataclass(frozen=True)
class Way:
    """How PyTorch runs the step."""

    compiled: bool = False
    checkpoint: bool = False
    budget: float = 1.0
    """torch.compile's budget for activations, as a share of what it would save by itself."""
    gathered: bool = False
    """Whether the head computes the logits of the masked positions alone, as ours does."""


_KINDS = {
    "eager": Way(),
    "eager, checkpointing": Way(checkpoint=True),
    "torch.compile": Way(compiled=True),
    "torch.compile, checkpointing": Way(compiled=True, checkpoint=True),
    f"torch.compile, budget {BUDGET}": Way(compiled=True, budget=BUDGET),
}
WAYS: dict[str, Way] = {f"{name}, all logits": way for name, way in _KINDS.items()} | {
    name: Way(way.compiled, way.checkpoint, way.budget, gathered=True) for name, way in _KINDS.items()
}
"""By name; `all logits` is how transformers' Trainer runs the model."""


def version() -> str:
    """Return the versions of both libraries."""
    return f"torch {torch.__version__}, transformers {transformers.__version__}"


class Theirs:
    """A model with its optimizer, whose steps the ways share, so that it is in memory once."""

    def __init__(self, config: bert.BertConfig, params: Any, batch: Batch, precision: str):
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        with tempfile.TemporaryDirectory() as folder:
            bert.save_pretrained(Path(folder), config, params)
            model: Any = transformers.BertForMaskedLM.from_pretrained(folder)
        self.model = model.to(self.device).train()
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=LEARNING_RATE,
            betas=(RECIPE.beta1, RECIPE.beta2),
            weight_decay=RECIPE.weight_decay,
        )
        # Enabled again, a layer would have another function, for which torch.compile would compile again.
        self.model.activation_checkpointing_enable({"use_reentrant": False})
        layers = self.model.modules()
        self.checkpointed = [layer for layer in layers if hasattr(layer, "gradient_checkpointing")]
        self.dtype = getattr(torch, precision)
        on_device = lambda array: torch.from_numpy(array).long().to(self.device)
        self.inputs, self.labels = on_device(batch.inputs_bt), on_device(batch.labels_bt)
        self.positions, self.masked_labels = on_device(batch.positions_bm), on_device(batch.labels_bm)

    def loss(self, gathered: bool) -> torch.Tensor:
        """Return the mean cross-entropy of the masked positions."""
        if not gathered:
            return self.model(self.inputs, labels=self.labels).loss
        hidden = self.model.bert(self.inputs).last_hidden_state
        index = self.positions[..., None].expand(-1, -1, hidden.shape[-1])
        logits = self.model.cls(torch.gather(hidden, 1, index))
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), self.masked_labels.flatten())

    def stepper(self, name: str) -> Callable[[], float]:
        """Return the step of a way, which has run once; it returns its loss."""
        way = WAYS[name]

        def loss() -> torch.Tensor:
            return self.loss(way.gathered)

        # What torch.compile makes is kept by code object: each way needs one of its own.
        loss.__code__ = loss.__code__.replace(co_name=f"loss_{list(WAYS).index(name)}")
        run = torch.compile(loss) if way.compiled else loss

        def step() -> float:
            for layer in self.checkpointed:
                layer.gradient_checkpointing = way.checkpoint
            self.optimizer.zero_grad(set_to_none=True)
            narrow = self.dtype != torch.float32
            cast = torch.autocast(self.device.type, self.dtype) if narrow else contextlib.nullcontext()
            with torch._functorch.config.patch(activation_memory_budget=way.budget):
                with cast:
                    value = run()
                value.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), RECIPE.clip)
            self.optimizer.step()
            return value.item()  # which waits for a GPU

        step()
        return step

    def peak(self, step: Callable[[], float]) -> int:
        """Return the bytes of parameters, optimizer and all that a step allocates, at their highest."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            step()
            return torch.cuda.max_memory_allocated()
        step()
        self.optimizer.zero_grad(set_to_none=True)
        resident = self._resident()
        with torch.profiler.profile(
            profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]
        ) as seen:
            step()
        return resident + _highest(seen)

    def _resident(self) -> int:
        states = (value for state in self.optimizer.state.values() for value in state.values())
        tensors = [*self.model.parameters(), *self.model.buffers(), *filter(torch.is_tensor, states)]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _highest(profile: torch.profiler.profile) -> int:
    """Return the largest sum of what PyTorch's allocator had given out and not taken back."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "trace.json")
        profile.export_chrome_trace(str(file))
        events = json.loads(file.read_text())["traceEvents"]
    changes = sorted((e["ts"], e["args"]["Bytes"]) for e in events if e.get("name") == "[memory]")
    total = highest = 0
    for _, change in changes:
        total += change
        highest = max(highest, total)
    return highest
