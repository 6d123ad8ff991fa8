"""Measure each family in a size for the target, go on where an earlier run was stopped, and print a table."""

import argparse
import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from experiments import records
from experiments.families import FAMILIES
from experiments.families.stack import Size

SIZE = Size(batch=32, time=512, width=512, layers=24)
LARGER_BATCHES = {"GRU": 32768, "momentum": 96}
"""For families that keep little, so that plain autodiff needs more than 4 GiB for them as well."""
HERE = Size(batch=4, time=128, width=128, layers=12)
"""For what is run on the machine here."""

Measured = Callable[[str, Any, Size, str | None, int], Any]
"""Of a family's name, type, size and target, and of rounds of the clock, what is kept in JSON."""


def size_for_targets(name: str) -> Size:
    """Return the size in which a family is compiled for a target."""
    batches = (batch for part, batch in LARGER_BATCHES.items() if part in name)
    return dataclasses.replace(SIZE, batch=next(batches, SIZE.batch))


def run(description: str | None, record: str, measured: Measured, table: Callable[[dict], str]) -> None:
    """Measure what the file of `record` does not hold yet, then print the table."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--target", help="v5e, h100, ...; default: the machine here")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--only", default="", help="families whose names contain this")
    parser.add_argument("--rounds", type=int, default=15, help="of the time on the machine here")
    flags = parser.parse_args()
    device, name_of_file = records.device_name(flags.target), f"{record}_{flags.dtype}"
    results = records.read(device, name_of_file) or {}
    for name in FAMILIES:
        if name not in results and flags.only in name:
            size = HERE if flags.target is None else size_for_targets(name)
            dtype = getattr(jnp, flags.dtype)
            results[name] = measured(name, dtype, size, flags.target, flags.rounds)
            records.write(device, name_of_file, results)
            print(name, results[name], flush=True)
    print(table(results))
