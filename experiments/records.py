"""What an experiment has found, as JSON by device, and the conditions that it was found under."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import jax

from bwsk_jax.writing import replacing

__all__ = ["RESULTS", "conditions", "device_name", "read", "write"]

RESULTS = Path(__file__).parent / "results"


def device_name(target: str | None = None) -> str:
    """Return the name of the folder of a target, or of the device that JAX runs on here.

    >>> device_name("v5e")
    'v5e'
    """
    return target or re.sub(r"\W+", "_", jax.devices()[0].device_kind.lower())


def conditions() -> dict[str, Any]:
    """Return what a time depends on beside the device: the version of JAX, the cores and their load."""
    return {"jax": jax.__version__, "cores": os.cpu_count(), "load": [round(x, 2) for x in os.getloadavg()]}


def write(device: str, name: str, record: Any) -> Path:
    """Write a record to its file, whole or not at all; return the file."""
    file = RESULTS / device / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as beside:
        beside.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    return file


def read(device: str, name: str) -> Any:
    """Return the record of a file, or None if there is no such file."""
    file = RESULTS / device / f"{name}.json"
    return json.loads(file.read_text("utf-8")) if file.exists() else None
