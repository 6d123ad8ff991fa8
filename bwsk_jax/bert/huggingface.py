"""Read and write weights in a Hugging Face folder: ``config.json`` beside ``model.safetensors``.

One table says where each tensor of ``BertForMaskedLM`` lives in our parameter tree. Import and export both
read this table, so that one is the inverse of the other. All faults of a folder are raised as one error.
Nothing is ever unpickled.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from bwsk_jax.bert.config import BertConfig, BertConfigError
from bwsk_jax.bert.model import Params, init_params
from bwsk_jax.bert.stored import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    CheckpointError,
    read_json,
    read_tensors,
    weight_files,
)
from bwsk_jax.writing import replacing

# --- the key map --------------------------------------------------------------------------------------------

# What each kind of module stores: Hugging Face's name -> (our name, whether the matrix is transposed).
EMBEDDING = {"weight": ("embedding", False)}
DENSE = {"weight": ("kernel", True), "bias": ("bias", False)}
LAYER_NORM = {"weight": ("scale", False), "bias": ("bias", False)}
BIAS = {"bias": ("bias", False)}

# Hugging Face's module -> (our module, its kind). {layer} stands for an index into our leading axis L.
KEY_MAP: dict[str, tuple[str, dict[str, tuple[str, bool]]]] = {
    "bert.embeddings.word_embeddings": ("embeddings.word", EMBEDDING),
    "bert.embeddings.position_embeddings": ("embeddings.position", EMBEDDING),
    "bert.embeddings.token_type_embeddings": ("embeddings.token_type", EMBEDDING),
    "bert.embeddings.LayerNorm": ("embeddings.layer_norm", LAYER_NORM),
    "bert.encoder.layer.{layer}.attention.self.query": ("layers.attention.query", DENSE),
    "bert.encoder.layer.{layer}.attention.self.key": ("layers.attention.key", DENSE),
    "bert.encoder.layer.{layer}.attention.self.value": ("layers.attention.value", DENSE),
    "bert.encoder.layer.{layer}.attention.output.dense": ("layers.attention.output", DENSE),
    "bert.encoder.layer.{layer}.attention.output.LayerNorm": ("layers.attention.layer_norm", LAYER_NORM),
    "bert.encoder.layer.{layer}.intermediate.dense": ("layers.feed_forward.up", DENSE),
    "bert.encoder.layer.{layer}.output.dense": ("layers.feed_forward.down", DENSE),
    "bert.encoder.layer.{layer}.output.LayerNorm": ("layers.feed_forward.layer_norm", LAYER_NORM),
    "cls.predictions.transform.dense": ("head.transform", DENSE),
    "cls.predictions.transform.LayerNorm": ("head.layer_norm", LAYER_NORM),
    "cls.predictions": ("head.decoder", BIAS),
}

# Other writers of the same weights use other names: pattern -> replacement, applied in order.
ALIASES: tuple[tuple[str, str], ...] = (
    (r"\.gamma$", ".weight"),
    (r"\.beta$", ".bias"),
    (r"^(?=embeddings\.|encoder\.|pooler\.)", "bert."),
)

# A wrapper, such as a data-parallel module, puts a prefix before every name: what stands before this one.
WRAPPER = re.compile(r"^(?P<wrapper>(?:.*?\.)??)(bert\.)?embeddings\.word_embeddings\.weight$")

# The output bias is in the model twice, and some writers keep only the copy.
HEAD_BIAS, HEAD_BIAS_COPY = "cls.predictions.bias", "cls.predictions.decoder.bias"

HEAD = "cls.predictions."
POOLER = "bert.pooler."

# Some writers store these. They are no part of the masked-LM function, or copies of something that is.
IGNORED: tuple[str, ...] = (
    r"^bert\.pooler\.",
    r"^bert\.embeddings\.position_ids$",
    r"^cls\.seq_relationship\.",
    r"^cls\.predictions\.decoder\.(weight|bias)$",
)


@dataclasses.dataclass(frozen=True)
class Slot:
    """Where one stored tensor lives in the parameter tree, and its stored shape."""

    path: tuple[str, ...]
    layer: int | None
    transposed: bool
    shape: tuple[int, ...]


def layout(config: BertConfig) -> dict[str, Slot]:
    """Return every tensor name of ``BertForMaskedLM`` with the place of its values in our tree.

    >>> layout(BertConfig())["cls.predictions.bias"]
    Slot(path=('head', 'decoder', 'bias'), layer=None, transposed=False, shape=(30522,))
    """
    shapes = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    slots = {}
    for pattern, (module, kind) in KEY_MAP.items():
        stacked = "{layer}" in pattern
        for their_leaf, (our_leaf, transposed) in kind.items():
            path = (*module.split("."), our_leaf)
            shape = _get(shapes, path).shape[stacked:]
            stored_shape = shape[::-1] if transposed else shape
            for layer in range(config.num_hidden_layers) if stacked else [None]:
                name = f"{pattern.format(layer=layer)}.{their_leaf}"
                slots[name] = Slot(path, layer, transposed, stored_shape)
    return slots


def _get(tree: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    return functools.reduce(lambda node, name: node[name], path, tree)


# --- between tensors and parameters -------------------------------------------------------------------------


def lacks_head(tensors: Mapping[str, np.ndarray]) -> bool:
    """Return whether `tensors` are those of an encoder alone: none of them belongs to the masked-LM head.

    >>> lacks_head({"bert.pooler.dense.bias": 0}), lacks_head({"module.cls.predictions.bias": 0})
    (True, False)
    """
    return not any(f".{HEAD}" in f".{name}" for name in tensors)


def with_fresh_head(
    config: BertConfig, tensors: Mapping[str, np.ndarray], key: jax.Array
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return an encoder's tensors and those of a head drawn from `key`, and the names of the latter."""
    drawn = export_tensors(config, init_params(config, key))
    head = {name: tensor for name, tensor in drawn.items() if name.startswith(HEAD)}
    return {**tensors, **head}, tuple(head)


def import_tensors(config: BertConfig, tensors: Mapping[str, np.ndarray]) -> Params:
    """Build the parameter tree from tensors under Hugging Face's names, in any float type.

    The prefix that a wrapper puts before the names is removed.

    Raises:
        CheckpointError: tensors are missing, unexpected, of another shape, no floats, or not finite; all are
            named.
    """
    slots = layout(config)
    tensors, faults = _canonical(tensors)
    faults += [f"missing: {name} {list(slot.shape)}" for name, slot in slots.items() if name not in tensors]
    for name, tensor in tensors.items():
        if name not in slots:
            faults.append(f"unexpected: {name} {list(tensor.shape)}")
        elif tensor.shape != slots[name].shape:
            faults.append(f"shape: {name} is {list(tensor.shape)}, expected {list(slots[name].shape)}")
        elif not jnp.issubdtype(tensor.dtype, jnp.floating):
            faults.append(f"type: {name} is {tensor.dtype}, expected floats")
    _raise_all(faults, "tensors and config.json disagree")

    tensors = {name: tensors[name].astype(np.float32) for name in slots}
    _raise_all([name for name in slots if not np.isfinite(tensors[name]).all()], "NaN or infinity is stored")

    leaves: dict[tuple[str, ...], list[np.ndarray]] = {}
    for name, slot in slots.items():
        tensor = tensors[name]
        leaves.setdefault(slot.path, []).append(tensor.T if slot.transposed else tensor)
    params: Params = {}
    for path, values in leaves.items():
        parent = functools.reduce(lambda node, name: node.setdefault(name, {}), path[:-1], params)
        parent[path[-1]] = jnp.array(np.stack(values) if path[0] == "layers" else values[0])
    return params


def export_tensors(config: BertConfig, params: Params) -> dict[str, np.ndarray]:
    """Return the parameters as contiguous float32 tensors under Hugging Face's names.

    Raises:
        CheckpointError: parameters are missing, unexpected or of another shape; all are named.

    >>> config = BertConfig(vocab_size=64, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    >>> tensors = export_tensors(config, init_params(config, jax.random.key(0)))
    >>> tensors["bert.encoder.layer.0.intermediate.dense.weight"].shape
    (3072, 8)
    """
    expected = _shapes(jax.eval_shape(lambda: init_params(config, jax.random.key(0))))
    found = _shapes(params)
    faults = [f"missing: {path} {list(shape)}" for path, shape in expected.items() if path not in found]
    for path, shape in found.items():
        if path not in expected:
            faults.append(f"unexpected: {path} {list(shape)}")
        elif shape != expected[path]:
            faults.append(f"shape: {path} is {list(shape)}, expected {list(expected[path])}")
    _raise_all(faults, "parameters and configuration disagree")

    params = jax.tree.map(lambda x: np.asarray(x, np.float32), params)
    tensors = {}
    for name, slot in layout(config).items():
        value = _get(params, slot.path)
        value = value if slot.layer is None else value[slot.layer]
        # safetensors writes the buffer as it lies in memory, whatever the strides.
        tensors[name] = np.ascontiguousarray(value.T if slot.transposed else value)
    return tensors


def _canonical(tensors: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], list[str]]:
    canonical, faults = {}, []
    names = _canonical_names(tensors)
    for stored_name, name in names.items():
        tensor = tensors[stored_name]
        if name == HEAD_BIAS_COPY and HEAD_BIAS not in names.values():
            name = HEAD_BIAS
        if any(re.search(pattern, name) for pattern in IGNORED):
            continue
        if name in canonical:
            faults.append(f"twice: {name}, once as {stored_name}")
        canonical[name] = tensor
    return canonical, faults


def _canonical_names(names: Iterable[str]) -> dict[str, str]:
    """Return stored name -> the name that ``BertForMaskedLM`` has for it."""
    names = list(names)
    wrappers = {match["wrapper"] for name in names if (match := WRAPPER.match(name))}
    wrapper = wrappers.pop() if len(wrappers) == 1 else ""
    return {name: _canonical_name(name, wrapper) for name in names}


def _canonical_name(name: str, wrapper: str) -> str:
    name = name.removeprefix(wrapper)
    for pattern, replacement in ALIASES:
        name = re.sub(pattern, replacement, name)
    return name


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf.shape for path, leaf in leaves}


def _raise_all(faults: list[str], what: str) -> None:
    if faults:
        raise CheckpointError(f"{what} in {len(faults)} places:\n  " + "\n  ".join(faults))


# --- folders ------------------------------------------------------------------------------------------------


def load_config(folder: str | os.PathLike[str]) -> BertConfig:
    """Read the configuration of a Hugging Face folder.

    Raises:
        CheckpointError: there is no readable ``config.json``.
        BertConfigError: the architecture is another one, or a variant of BERT that is not computed here.
    """
    file = Path(folder) / CONFIG_FILE
    try:
        return BertConfig.from_hf(read_json(file))
    except BertConfigError as error:
        raise BertConfigError(f"{file}: {error}") from None


def load_pretrained(folder: str | os.PathLike[str]) -> tuple[BertConfig, Params]:
    """Read a Hugging Face folder; return its configuration and float32 parameters.

    The weights are one ``model.safetensors`` or shards with their index, stored in float16, bfloat16 or
    float32. Their names may lack the ``bert.`` prefix, have that of a wrapper, and call a layer norm's weight
    and bias ``gamma`` and ``beta``. Pooler, next-sentence head, position ids and copies of the tied decoder
    are ignored.

    Raises:
        CheckpointError: configuration or weights cannot be read, or tensors do not fit the configuration.
        BertConfigError: the architecture is another one, or a variant of BERT that is not computed here.
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
    >>> config = BertConfig(vocab_size=64, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_pretrained(folder, config, init_params(config, jax.random.key(0)))
    ...     load_for_finetuning(folder, jax.random.key(1))[2]
    ()
    """
    folder = Path(folder)
    config, tensors = _read_folder(folder)
    fresh: tuple[str, ...] = ()
    if lacks_head(tensors):
        tensors, fresh = with_fresh_head(config, tensors, key)
    return config, _import_folder(folder, config, tensors), fresh


def load_pooler(folder: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Return the pooler of a Hugging Face folder, as float32 tensors; {} if it has none.

    It is no part of the masked-LM function. ``save_pretrained`` writes it back, so that ``AutoModel`` has it.

    Raises:
        CheckpointError: the weights cannot be read.
    """
    tensors: dict[str, np.ndarray] = {}
    for file in weight_files(Path(folder)):
        tensors.update(read_tensors(file))
    named = {name: tensors[stored] for stored, name in _canonical_names(tensors).items()}
    return {name: tensor.astype(np.float32) for name, tensor in named.items() if name.startswith(POOLER)}


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

    With a ``pooler``, as ``load_pooler`` returns it, ``AutoModel`` finds that too. Creates the folder. Each
    file is written beside its final name and then moved there: a crash or a full disk leaves the previous
    file whole.

    Raises:
        CheckpointError: the parameters do not fit the configuration; then nothing is written.
        OSError: the folder cannot be written.

    >>> import tempfile
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
