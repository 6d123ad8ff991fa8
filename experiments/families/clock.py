"""What the ways to run a backward pass take of the machine here: memory, time, and how exact they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from experiments.distance import distance
from experiments.families.measure import Build, abstract, arguments, concrete, gradient
from experiments.families.stack import Size, Stack, cast
from experiments.turns import in_turns, ratio

__all__ = ["timed"]

Scans = Mapping[str, Callable]


def timed(build: Build, dtype: Any, size: Size, scans: Scans, rounds: int) -> dict[str, dict[str, Any]]:
    """Return for each scan the figures of the gradient of a stack.

    They are the compiled temporaries in bytes, the time in units of the first scan's (the median over rounds
    of the ratio within a round), and the error: the distance to the gradient by plain autodiff of the same
    values in float32, as a fraction of its norm.
    """
    stack = concrete(build, dtype, size)
    given = arguments(stack)
    truth = _in_float32(build, stack, size, next(iter(scans.values())))
    programs = {way: jax.jit(gradient(stack, scan)).lower(*given).compile() for way, scan in scans.items()}
    errors = {way: distance(program(*given), truth) for way, program in programs.items()}
    runs = {
        way: lambda program=program: jax.block_until_ready(program(*given))
        for way, program in programs.items()
    }
    times = in_turns(runs, rounds)
    first = next(iter(times.values()))
    return {
        way: {
            "temporaries": program.memory_analysis().temp_size_in_bytes,
            "cycles": None,
            "time": ratio(times[way]["seconds"], first["seconds"]),
            "error": errors[way],
        }
        for way, program in programs.items()
    }


def _in_float32(build: Build, stack: Stack, size: Size, scan: Callable) -> Any:
    """The gradient of the same values, computed in float32."""
    body = abstract(build, jnp.float32, size).body
    exact = Stack(body, *cast((stack.shared, stack.carry, stack.xs), jnp.float32))
    return jax.jit(gradient(exact, scan))(*arguments(exact))
