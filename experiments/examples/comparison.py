"""Train by several backward passes in turns, and print what each takes and where it ends."""

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

import bwsk_jax

__all__ = ["WAYS", "arguments", "compare", "normal"]

Scan = Callable[..., Any]
Series = dict[str, list[float]]
"""A number for each step of each way."""
WAYS: dict[str, Scan] = {
    "plain autodiff": lax.scan,
    "jax.checkpoint": lambda body, init, xs: lax.scan(jax.checkpoint(body), init, xs),
    "plan, 3%": bwsk_jax.reversible_scan,
    "plan, least memory": functools.partial(bwsk_jax.reversible_scan, max_overhead=bwsk_jax.LEAST_MEMORY),
}
"""How the stack of layers is scanned over; all ways compute the same function."""


def arguments(doc: str | None) -> argparse.Namespace:
    """Return the flags of an example, which `doc` describes."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="of training, by each of the ways")
    parser.add_argument("--layers", type=int, default=24)
    return parser.parse_args()


def compare(
    title: str, loss: Callable[..., Any], params: Any, batches: Iterable[Any]
) -> dict[str, list[float]]:
    """Train by each way, one step of each in turns, and print a table; return the losses of each way.

    Args:
      title: stands above the table.
      loss: of (scan, params, batch), where `scan` takes what `jax.lax.scan` takes.
      params: a pytree of floats, from which each way starts.
      batches: one for each step.
    """
    optimizer = optax.adam(1e-3)
    batches = list(batches)

    def step(scan: Scan, params: Any, state: Any, batch: Any) -> tuple[Any, Any, Any]:
        value, gradient = jax.value_and_grad(functools.partial(loss, scan))(params, batch)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    start = params, optimizer.init(params)
    compiled = {
        way: jax.jit(functools.partial(step, scan)).lower(*start, batches[0]).compile()
        for way, scan in WAYS.items()
    }
    states = dict.fromkeys(WAYS, start)
    losses: Series = {way: [] for way in WAYS}
    seconds: Series = {way: [] for way in WAYS}
    for batch in batches:
        for way, run in compiled.items():
            began = time.perf_counter()
            *state, value = jax.block_until_ready(run(*states[way], batch))
            seconds[way].append(time.perf_counter() - began)
            states[way] = tuple(state)
            losses[way].append(float(value))
    _show(title, compiled, losses, seconds)
    return losses


def _show(title: str, compiled: dict[str, Any], losses: Series, seconds: Series) -> None:
    plain = next(iter(WAYS))
    print(f"\n{title}\n")
    print("| way | temporaries, MiB | step, ms | loss, first to last | furthest from plain |")
    print("|---|---|---|---|---|")
    for way, program in compiled.items():
        mebibytes = program.memory_analysis().temp_size_in_bytes / 2**20
        apart = max(abs(a - b) for a, b in zip(losses[way], losses[plain], strict=True))
        ends = f"{losses[way][0]:.4f} to {losses[way][-1]:.4f}"
        milliseconds = 1000 * statistics.median(seconds[way])
        print(f"| {way} | {mebibytes:.1f} | {milliseconds:.0f} | {ends} | {apart:.1e} |")


def normal(key: Any, *shape: int) -> jax.Array:
    """Return weights that keep the variance of what the second last axis is summed over."""
    return jax.random.normal(key, shape) / jnp.sqrt(shape[-2])
