"""`fit`: of all the ways to keep within a memory, the one whose compiled program takes the least time."""

from __future__ import annotations

import dataclasses
import math
import re
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from bwsk_jax.engine.program.jaxprs import flatten
from bwsk_jax.engine.rules.costs import forward_cost
from bwsk_jax.errors import UserError
from bwsk_jax.targets.machines import Target, find_target
from bwsk_jax.targets.program import CompiledProgram, DoesNotFitError, aimed, compile_lowered

__all__ = ["Fit", "FitError", "Way", "fit", "parse_bytes"]

_UNITS = {"B": 1}
_UNITS |= {f"{prefix}B": 1000**power for power, prefix in enumerate("KMG", start=1)}
_UNITS |= {f"{prefix}iB": 1024**power for power, prefix in enumerate("KMG", start=1)}
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([A-Za-z]*)")

STOCK = {
    "plain autodiff": jax.checkpoint_policies.everything_saveable,
    "jax.checkpoint": jax.checkpoint_policies.nothing_saveable,
    "dots_saveable": jax.checkpoint_policies.dots_saveable,
    "dots_with_no_batch_dims_saveable": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
"""What JAX itself offers, by name."""
FIRST = (math.inf, 0.03, 0.1)
"""Limits on the overhead that are tried first."""
BESIDE = {math.inf: (0.2,), 0.1: (0.06, 0.15), 0.03: (0.0, 0.01)}
"""The limits that are tried next to the fastest of the first ones."""
_MOST = len(STOCK) + len(FIRST) + max(map(len, BESIDE.values())) + 1


class FitError(UserError):
    """Nothing keeps within the memory; the message names the least that was reached."""


@dataclasses.dataclass(frozen=True)
class Way:
    """One way to run the backward pass, and what the compiler made of it."""

    name: str
    limit: Mapping[str, Any]
    """The keyword arguments of `make`."""
    program: CompiledProgram | None
    """None if the compiler gave up for want of memory."""
    flops: float
    """Of the traced program, recomputation included, as the planner counts them."""
    fits: bool

    @property
    def time(self) -> float:
        """The compiler's estimate in cycles, or FLOPs where it makes none."""
        cycles = self.program.cycles if self.program else None
        return self.flops if cycles is None else cycles

    @property
    def peak(self) -> float:
        """Bytes of the compiled program; infinite if there is none."""
        return self.program.peak_bytes if self.program else math.inf

    def __str__(self) -> str:
        if self.program is None:
            return f"{self.name:<40}{'more than there is':>29}"
        cycles = self.program.cycles
        work = f"{_short(self.flops / 1e9)} GFLOP" if cycles is None else f"{_short(cycles / 1e6)} M cycles"
        peak = f"{_short(self.peak / 2**20)} MiB"
        return f"{self.name:<40}{peak:>13}{work:>16}{'' if self.fits else '  too much'}"


@dataclasses.dataclass(frozen=True)
class Fit:
    """What `fit` found."""

    function: Any
    """What `make` returned for the best way."""
    best: Way
    tried: tuple[Way, ...]
    target: Target
    memory: int
    """The bytes that the peak had to keep to."""

    @property
    def limit(self) -> Mapping[str, Any]:
        """The keyword arguments of `make` that gave `function`."""
        return self.best.limit

    def __str__(self) -> str:
        within = f"{_short(self.memory / 2**20)} MiB on {self.target.name}"
        head = f"{self.best.name} is the fastest within {within}:"
        return "\n".join([head, *(f"{'*' if way is self.best else ' '} {way}" for way in self.tried)])


def fit(
    make: Callable[..., Callable],
    *args: Any,
    memory: str | int | None = None,
    target: str | Target | None = None,
) -> Fit:
    """Find the backward pass that takes the least time within a memory, by compiling about ten of them.

    Compared are plans, with inverses and without, `jax.checkpoint`, its stock policies, and plain autodiff:
    by the cycles that the compiler of the target estimates, and where it estimates none by FLOPs. The peak
    is that of the whole compiled program, and nothing is concluded about a program that was not compiled. A
    line on standard error tells of each, also of a policy that JAX cannot trace: of complex numbers, most.

    Args:
      make: returns the function to run, jitted or not, given what it has to pass on to `reversible` or
        `reversible_scan` as keyword arguments.
      *args: those of the function, as for `compile_for`.
      memory: bytes that the program may take on one device, as a number or like "16GB" or "500MiB"; by
        default all that the target has.
      target: as for `compile_for`.

    Raises:
      FitError: nothing keeps within the memory.
      ValueError: `memory` is no size.

    >>> import bwsk_jax, jax, jax.numpy as jnp
    >>> def make(**limit):
    ...     def loss(w, x):
    ...         layer = lambda x, w: (jnp.tanh(x @ w), None)
    ...         return bwsk_jax.reversible_scan(layer, x, w, **limit)[0].sum()
    ...     return jax.jit(jax.grad(loss))
    >>> w, x = (jax.ShapeDtypeStruct(s, jnp.float32) for s in ((8, 64, 64), (256, 64)))
    >>> found = bwsk_jax.fit(make, w, x, memory="1.5MiB")
    >>> found.best.program.peak_bytes < 1.5 * 2**20, len(found.tried) > 5
    (True, True)
    """
    aim = find_target(target)
    bound = aim.memory if memory is None else memory if isinstance(memory, int) else parse_bytes(memory)
    search = _Search(make, args, aim, bound)
    for name, policy in STOCK.items():
        search.run_stock(name, policy)
    plans = [search.run(_name(limit), max_overhead=limit) for limit in FIRST]
    if not any(way.fits for way in search.tried):
        raise FitError(search.complaint())
    fastest = min(plans, key=lambda way: (not way.fits, search.time(way)))
    plans += [search.run(_name(limit), max_overhead=limit) for limit in BESIDE[fastest.limit["max_overhead"]]]
    limit = min(plans, key=lambda way: (not way.fits, search.time(way))).limit["max_overhead"]
    search.run(f"{_name(limit)}, without inverses", max_overhead=limit, invert=False)
    best = min((way for way in search.tried if way.fits), key=lambda way: (search.time(way), way.peak))
    return Fit(make(**best.limit), best, tuple(search.tried), aim, bound)


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 1000 else f"{number:.3g}"


def _name(limit: float) -> str:
    return "least memory" if limit == math.inf else f"{limit:.0%} overhead"


class _Search:
    """Compiles one way after another, each program once."""

    def __init__(self, make: Callable, args: Any, target: Target, memory: int):
        self.make, self.args, self.target, self.memory = make, aimed(args, target), target, memory
        self.tried: list[Way] = []
        self.programs: dict[str, CompiledProgram | None] = {}
        self.most = _MOST
        self.start = time.perf_counter()

    def run_stock(self, name: str, policy: Callable) -> None:
        """Run what JAX offers, unless JAX cannot trace it. A mistake in `make` is met again by a plan."""
        try:
            self.run(name, plan=policy)
        except Exception as error:
            self.most -= 1
            reason = str(error).splitlines()[0] if str(error) else ""
            print(f"fit: {name} is left out: {type(error).__name__}: {reason}", file=sys.stderr, flush=True)

    def run(self, name: str, **limit: Any) -> Way:
        made = self.make(**limit)
        with self.target.tracing():
            traced = (made if hasattr(made, "trace") else jax.jit(made)).trace(*self.args)
            lowered = traced.lower()
        program = flatten(traced.jaxpr, merged=False)
        text = lowered.as_text()
        if text not in self.programs:
            try:
                self.programs[text] = compile_lowered(lowered, self.target)
            except DoesNotFitError:
                self.programs[text] = None
        compiled = self.programs[text]
        fits = compiled is not None and compiled.peak_bytes <= self.memory
        way = Way(name, limit, compiled, forward_cost(program, program.outputs), fits)
        self.tried.append(way)
        done = len(self.tried)
        left = (time.perf_counter() - self.start) / done * (self.most - done)
        print(f"fit {done}/{self.most}: {way}; at most {left:.0f} s left", file=sys.stderr, flush=True)
        return way

    def time(self, way: Way) -> float:
        """What is compared: the way's time, but FLOPs if there is no estimate for some way."""
        estimated = all(tried.program.cycles is not None for tried in self.tried if tried.program)
        return way.time if estimated else way.flops

    def complaint(self) -> str:
        peak = min(way.peak for way in self.tried)
        least = f"the least was {peak:,}" if peak < math.inf else f"{self.target.name} has too little for any"
        return f"nothing keeps within {self.memory:,} bytes: {least}"


def parse_bytes(text: str) -> int:
    """Return how many bytes `text` says: a number, with or without a unit. A fraction of a byte is dropped.

    Raises `ValueError` for anything else, and for less than one byte.

    >>> parse_bytes("8GiB"), parse_bytes("1.5 KB"), parse_bytes("77")
    (8589934592, 1500, 77)
    """
    match = _SIZE.fullmatch(text)
    if match is None or (match[2] or "B") not in _UNITS:
        raise ValueError(f"expected a number of bytes, or one with a unit of {', '.join(_UNITS)}")
    size = int(float(match[1]) * _UNITS[match[2] or "B"])
    if size == 0:
        raise ValueError("expected at least one byte")
    return size
