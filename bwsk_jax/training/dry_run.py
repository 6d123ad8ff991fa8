"""Will it fit? What the compiled step of a run takes, without parameters, network or output."""

import sys
from typing import Any

import jax

from bwsk_jax.training.data.sources import sources_at_hand
from bwsk_jax.training.data.windows import steps_per_epoch
from bwsk_jax.training.flags import Flags
from bwsk_jax.training.memory import fit_memory
from bwsk_jax.training.resolve import resolve
from bwsk_jax.training.setup import StepSetup


def dry_run(flags: Flags) -> dict[str, Any]:
    """Compile the step that `flags` ask for, and return its memory in MB of 10^6 bytes.

    What is only on the Hub is replaced by an assumption, which a note on standard error names.
    Raises what `prepare` raises, `FitError`, and `DoesNotFitError` if the compiler gives up.
    """
    resolved = resolve(flags, sources_at_hand)
    setup = StepSetup(**resolved.step)
    for assumption in resolved.assumptions:
        print(f"note: {assumption}", file=sys.stderr)
    setup = fit_memory(setup)
    windows = resolved.train_windows
    return step_memory(setup) | {
        "max_bytes": setup.flags.max_bytes,
        "steps_per_epoch": None if windows is None else steps_per_epoch(len(windows), setup.recipe),
    }


def step_memory(setup: StepSetup) -> dict[str, Any]:
    """Compile the step; return its memory in MB, its recomputation, and how many parameters it trains.

    The memory of the target is that of one device. The cycles are what its compiler estimates, if it does.
    The floor is what no plan lowers: parameters, their gradient, and the state of the optimizer. The saved
    and the residual bytes are those of all layers: what the plan saves, and what plain autodiff keeps.
    """
    state = setup.state
    params_bytes = _bytes(state.params)
    layers = setup.config.num_hidden_layers
    plan = setup.plan or setup.plan_layer()
    follows = setup.variant.inverts
    program = setup.compile()
    return {
        "target": program.target.name,
        "target_memory_mb": program.target.memory / 1e6,
        "fits": program.fits,
        "estimated_cycles": program.cycles,
        "compiled_peak_mb": program.peak_bytes / 1e6,
        "floor_mb": (2 * params_bytes + _bytes(state.optimizer_state)) / 1e6,
        "saved_mb": layers * (plan.saved_bytes if follows else plan.residual_bytes) / 1e6,
        "residual_mb": layers * plan.residual_bytes / 1e6,
        "overhead": plan.overhead if follows else 0.0,
        "parameters": setup.parameters,
    }


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
