"""Weights and configurations as they lie in a Hugging Face folder, before anything is made of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from bwsk_jax.errors import UserError

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PICKLE_FILE = "pytorch_model.bin"


class CheckpointError(UserError):
    """A folder or a parameter tree does not hold the weights that it should; every fault is named."""


def weight_files(folder: Path) -> list[Path]:
    """Return the files of weights in ``folder``: one, or shards. Raises ``CheckpointError``."""
    if (folder / WEIGHTS_FILE).is_file():
        return [folder / WEIGHTS_FILE]
    if (folder / INDEX_FILE).is_file():
        shards = read_json(folder / INDEX_FILE).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
            raise CheckpointError(f"{folder / INDEX_FILE} has no weight_map of tensor names to files")
        return [folder / shard for shard in sorted(set(shards.values()))]
    if (folder / PICKLE_FILE).is_file():
        raise CheckpointError(
            f"{folder} has only {PICKLE_FILE}, a pickle, which can run any code and is never opened here. If "
            "you trust it, convert it with transformers: "
            f"AutoModelForMaskedLM.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"
        )
    raise CheckpointError(f"{folder} has neither {WEIGHTS_FILE} nor {INDEX_FILE}")


def read_tensors(file: Path) -> dict[str, np.ndarray]:
    """Return stored name -> tensor of one file of weights. Raises ``CheckpointError``."""
    try:
        with safe_open(file, framework="np") as tensors:
            return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} cannot be read as safetensors: {error}; copy it again") from error


def read_json(file: Path) -> dict[str, Any]:
    """Return the JSON object in ``file``. Raises ``CheckpointError``."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise CheckpointError(f"{file} is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{file} holds a {type(values).__name__}, expected a JSON object")
    return values
