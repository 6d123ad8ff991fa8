"""Read and write weights in a Hugging Face folder: ``config.json`` beside ``model.safetensors``.

Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from bwsk_jax.bert.config import BertConfig, BertConfigError
from bwsk_jax.bert.huggingface.stored import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    CheckpointError,
    read_json,
    read_tensors,
    weight_files,
)
from bwsk_jax.bert.huggingface.tensors import (
    export_tensors,
    import_tensors,
    kept_tensors,
    lacks_head,
    with_fresh_head,
)
from bwsk_jax.bert.model import Params
from bwsk_jax.writing import replacing


def load_config(folder: str | os.PathLike[str]) -> BertConfig:
    """Read the configuration of a Hugging Face folder.

    Raises:
        CheckpointError: there is no readable ``config.json``.
        BertConfigError: the architecture is not supported, or is a variant that is not computed here.
    """
    file = Path(folder) / CONFIG_FILE
    try:
        return BertConfig.from_hf(read_json(file))
    except BertConfigError as error:
        raise BertConfigError(f"{file}: {error}") from None


def load_pretrained(folder: str | os.PathLike[str]) -> tuple[BertConfig, Params]:
    """Read a Hugging Face folder; return its configuration and float32 parameters.

    The weights are one ``model.safetensors`` or shards with their index, stored in float16, bfloat16 or
    float32. Their names may lack the prefix of the encoder (``bert.``), have that of a wrapper, and call a
    layer norm's weight and bias ``gamma`` and ``beta``. Pooler, next-sentence head, position ids and copies
    of the tied decoder are ignored.

    Raises:
        CheckpointError: configuration or weights cannot be read, or tensors do not fit the configuration.
        BertConfigError: the architecture is not supported, or is a variant that is not computed here.
    """
    config, tensors = _read_folder(Path(folder))
    return config, _import_folder(Path(folder), config, tensors)


def load_for_finetuning(
    folder: str | os.PathLike[str], key: jax.Array
) -> tuple[BertConfig, Params, tuple[str, ...]]:
    """Read a folder as ``load_pretrained`` does; an encoder without a masked-LM head gets a fresh one.

    Returns the configuration, the parameters and the names of the tensors that were drawn from ``key``: none,
    or all tensors of the head. A head with missing tensors is refused.

    Raises:
        CheckpointError, BertConfigError: as ``load_pretrained``.

    >>> import tempfile
    >>> from bwsk_jax.bert.model import init_params
    >>> config = BertConfig(vocab_size=64, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_pretrained(folder, config, init_params(config, jax.random.key(0)))
    ...     load_for_finetuning(folder, jax.random.key(1))[2]
    ()
    """
    folder = Path(folder)
    config, tensors = _read_folder(folder)
    fresh: tuple[str, ...] = ()
    if lacks_head(config.architecture, tensors):
        tensors, fresh = with_fresh_head(config, tensors, key)
    return config, _import_folder(folder, config, tensors), fresh


def load_pooler(folder: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Return the pooler of a Hugging Face folder and the next-sentence head that reads it, {} without either.

    They are float32 tensors under transformers' names, and no part of the masked-LM function.
    ``save_pretrained`` writes them back, so that ``AutoModel`` and ``BertForPreTraining`` have them.

    Raises:
        CheckpointError: the configuration or the weights cannot be read.
        BertConfigError: as ``load_config``.
    """
    config, tensors = _read_folder(Path(folder))
    kept = kept_tensors(config.architecture, tensors)
    return {name: tensor.astype(np.float32) for name, tensor in kept.items()}


def _read_folder(folder: Path) -> tuple[BertConfig, dict[str, np.ndarray]]:
    config = load_config(folder)
    tensors: dict[str, np.ndarray] = {}
    for file in weight_files(folder):
        tensors.update(read_tensors(file))
    return config, tensors


def _import_folder(folder: Path, config: BertConfig, tensors: dict[str, np.ndarray]) -> Params:
    try:
        return import_tensors(config, tensors)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from None


def holds_model(folder: str | os.PathLike[str]) -> bool:
    """Return whether both files that ``save_pretrained`` writes are in ``folder``."""
    return all((Path(folder) / name).is_file() for name in (WEIGHTS_FILE, CONFIG_FILE))


def save_pretrained(
    folder: str | os.PathLike[str],
    config: BertConfig,
    params: Params,
    pooler: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write ``model.safetensors`` and ``config.json`` so that ``AutoModelForMaskedLM`` loads them.

    What ``load_pooler`` returns may be given as ``pooler``, and is stored with them. Creates the folder. Each
    file is written beside its final name and then moved there: a crash or a full disk leaves the previous
    file whole.

    Raises:
        CheckpointError: the parameters do not fit the configuration; then nothing is written.
        OSError: the folder cannot be written.

    >>> import tempfile
    >>> from bwsk_jax.bert.model import init_params
    >>> config = BertConfig(vocab_size=64, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_pretrained(folder, config, init_params(config, jax.random.key(0)))
    ...     load_pretrained(folder)[0] == config
    True
    """
    folder = Path(folder)
    kept = {name: np.ascontiguousarray(tensor) for name, tensor in (pooler or {}).items()}
    tensors = export_tensors(config, params) | kept
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / WEIGHTS_FILE) as temporary:
        try:
            save_file(tensors, temporary, metadata={"format": "pt"})
        except SafetensorError as error:
            raise OSError(f"{folder / WEIGHTS_FILE}: {error}") from error
    with replacing(folder / CONFIG_FILE) as temporary:
        temporary.write_text(json.dumps(config.to_hf(), indent=2, sort_keys=True) + "\n", encoding="utf-8")
