"""Will it fit? What the compiled step of a run takes, without parameters, network or output."""

import math
import sys
from collections import Counter
from typing import Any

import jax

from bwsk_jax.coordination.compiled import compiled_collectives
from bwsk_jax.coordination.meetings import bytes_per_axis
from bwsk_jax.targets import CompiledProgram
from bwsk_jax.training.data.sources import sources_at_hand
from bwsk_jax.training.data.windows import steps_per_epoch
from bwsk_jax.training.flags import Flags
from bwsk_jax.training.memory import fit_memory
from bwsk_jax.training.resolve import resolve
from bwsk_jax.training.setup import StepSetup
from bwsk_jax.training.step.placement import Placement


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
    """Compile the step; return its memory in MB, its overhead, and how many parameters it trains.

    Memory is that of one device. The cycles are what its compiler estimates, if it does. The floor is what no
    plan lowers: parameters, their gradient, and the state of the optimizer. The saved and the residual bytes
    are those of all layers: what the plan saves, and what plain autodiff keeps. On a mesh, there are also the
    collectives in which devices meet, and the bytes that a device sends along each axis.
    """
    state = setup.state
    params_bytes = _bytes(state.params)
    layers = setup.config.num_hidden_layers
    in_mb = lambda plan_bytes: layers * setup.per_device(plan_bytes) / 1e6
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
        "saved_mb": in_mb(plan.saved_bytes if follows else plan.residual_bytes),
        "residual_mb": in_mb(plan.residual_bytes),
        "overhead": plan.overhead if follows else 0.0,
        "parameters": setup.parameters,
    } | (_meetings(program, setup.placement) if setup.placement.axes else {})


def _bytes(tree: Any) -> int:
    """Return the bytes of a tree of shapes on one device."""
    shape = lambda leaf: leaf.shape if leaf.sharding is None else leaf.sharding.shard_shape(leaf.shape)
    return sum(math.prod(shape(leaf)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _meetings(program: CompiledProgram, placement: Placement) -> dict[str, Any]:
    """Return where the devices of a compiled step meet, and what a device sends in a step."""
    found = compiled_collectives(program, dict(placement.axes))
    alike: Counter[tuple[str, tuple[str, ...], int]] = Counter()
    for meeting in found:
        alike[meeting.kind, meeting.axes, meeting.bytes] += meeting.times
    return {
        "devices": placement.devices,
        "collectives": [
            {"kind": kind, "axes": axes, "bytes": size, "times": times}
            for (kind, axes, size), times in sorted(alike.items())
        ],
        "bytes_per_axis": bytes_per_axis(found),
    }
