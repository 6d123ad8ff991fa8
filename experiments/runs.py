"""Runs of `python -m bwsk_jax.train`, as experiments need them."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SMALL = {"preset": "demo", "recipe": "best", "batch_size": 32, "mask_rate": 0.15, "weight_decay": 0.01}
"""The demo's model of 2 layers x 128, trained by the recipe `best` of `mini` but in windows of 64 tokens."""


def trained(variant: str, out: Path, flags: Mapping[str, Any]) -> dict[str, Any]:
    """Train a variant in `out`, go on with a run that was cut short, and return its results.

    A finished run is not trained again.

    Args:
      variant: one of the six.
      out: the folder that receives `variant/`.
      flags: of `bwsk_jax.train`, by their names in options.json; those that are None are left out.

    Raises:
      subprocess.CalledProcessError: the run ended with an error, which it has printed.
    """
    given = [part for name, value in flags.items() if value is not None for part in (_flag(name), str(value))]
    command = [sys.executable, "-m", "bwsk_jax.train", "--variant", variant, "--out", str(out), *given]
    print("$", " ".join(command[1:]), flush=True)
    subprocess.run(command, check=True)
    return json.loads((out / variant / "training_results.json").read_text("utf-8"))


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
