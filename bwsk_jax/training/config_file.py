"""Flags from a JSON file, in the form in which a run leaves its own: options.json."""

import json
import math
from pathlib import Path
from typing import Any

from bwsk_jax.training.flag_values import TYPES, FlagError, nearest, type_fault, value_fault

# What a run's options.json holds beside its flags.
NO_FLAGS = ("text", "fitted_max_bytes")


def read_flags(path: str) -> dict[str, Any]:
    """Return flag -> value as the file at `path` has it.

    Raises `FlagError` that names the file, the key, its value and what was expected.
    """
    entries = _read(path)
    return {name: _value(path, name, value) for name, value in entries.items() if name not in NO_FLAGS}


def _read(path: str) -> dict[str, Any]:
    try:
        entries = json.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise FlagError(f"--config {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise FlagError(f"--config {path} is not JSON: {error}") from None
    if not isinstance(entries, dict):
        raise FlagError(f"--config {path} holds no JSON object of flags, but {json.dumps(entries)[:40]}")
    return entries


def _value(path: str, name: str, value: Any) -> Any:
    if name not in TYPES:
        raise FlagError(f"--config {path}: unknown key {name!r}: did you mean {nearest(name, TYPES)!r}?")
    if value == "inf" and float in TYPES[name]:  # JSON has no infinity
        value = math.inf
    if fault := type_fault(name, value) or value_fault(name, value):
        raise FlagError(f"--config {path}: {name} {json.dumps(value)} {fault}")
    return value
