"""Between tensors under Hugging Face's names and the parameter tree, in both directions.

The description of an architecture says where each tensor lives in the tree. Import and export both read it,
so that one is the inverse of the other. All faults are raised as one error.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bwsk_jax.bert.architectures import Architecture
from bwsk_jax.bert.config import BertConfig
from bwsk_jax.bert.huggingface.stored import CheckpointError
from bwsk_jax.bert.model import Params, init_params

# Old writers spell a layer norm's tensors otherwise: pattern -> replacement.
SPELLINGS = ((r"\.gamma$", ".weight"), (r"\.beta$", ".bias"))

# A wrapper, such as a data-parallel module, puts a prefix before every name: what stands before this one.
WORD = "embeddings.word_embeddings.weight"


@dataclasses.dataclass(frozen=True)
class Slot:
    """Where one stored tensor lives in the parameter tree, and its stored shape."""

    path: tuple[str, ...]
    layer: int | None
    transposed: bool
    shape: tuple[int, ...]


def layout(config: BertConfig) -> dict[str, Slot]:
    """Return every tensor name of transformers' masked LM with the place of its values in our tree.

    >>> layout(BertConfig())["cls.predictions.bias"]
    Slot(path=('head', 'decoder', 'bias'), layer=None, transposed=False, shape=(30522,))
    """
    shapes = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    slots = {}
    for pattern, (module, kind) in config.architecture.modules.items():
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


def lacks_head(architecture: Architecture, tensors: Mapping[str, np.ndarray]) -> bool:
    """Return whether `tensors` are those of an encoder alone: none of them belongs to the masked-LM head.

    >>> bert = BertConfig().architecture
    >>> lacks_head(bert, {"bert.pooler.dense.bias": 0}), lacks_head(bert, {"module.cls.predictions.bias": 0})
    (True, False)
    """
    return not any(f".{module}." in f".{name}" for name in tensors for module in architecture.head)


def with_fresh_head(
    config: BertConfig, tensors: Mapping[str, np.ndarray], key: jax.Array
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return an encoder's tensors and those of a head drawn from `key`, and the names of the latter."""
    drawn = export_tensors(config, init_params(config, key))
    head = {name: drawn[name] for name, slot in layout(config).items() if slot.path[0] == "head"}
    return {**tensors, **head}, tuple(head)


def import_tensors(config: BertConfig, tensors: Mapping[str, np.ndarray]) -> Params:
    """Build the parameter tree from tensors under Hugging Face's names, in any float type.

    The prefix that a wrapper puts before the names is removed.

    Raises:
        CheckpointError: tensors are missing, unexpected, of another shape, no floats, or not finite; all are
            named.
    """
    slots = layout(config)
    tensors, faults = _canonical(config.architecture, tensors)
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


def kept_tensors(architecture: Architecture, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return what is no part of the masked LM and is exported unchanged, under transformers' names.

    >>> kept_tensors(BertConfig().architecture, {"pooler.dense.bias": 0, "embeddings.position_ids": 1})
    {'bert.pooler.dense.bias': 0}
    """
    named = {name: tensors[stored] for stored, name in _canonical_names(architecture, tensors).items()}
    return {name: tensor for name, tensor in named.items() if name.startswith(architecture.kept)}


def _canonical(
    architecture: Architecture, tensors: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], list[str]]:
    canonical, faults = {}, []
    names = _canonical_names(architecture, tensors)
    for stored_name, name in names.items():
        original = architecture.copies.get(name, name)
        if original != name and original in names.values():
            continue
        if name in architecture.ignored or name.startswith(architecture.kept):
            continue
        if original in canonical:
            faults.append(f"twice: {original}, once as {stored_name}")
        canonical[original] = tensors[stored_name]
    return canonical, faults


def _canonical_names(architecture: Architecture, names: Iterable[str]) -> dict[str, str]:
    """Return stored name -> the name that transformers' masked LM has for it."""
    names, word = list(names), re.escape(WORD)
    wrapped = re.compile(rf"(?P<wrapper>(?:.*?\.)??)({re.escape(architecture.prefix)})?{word}")
    wrappers = {match["wrapper"] for name in names if (match := wrapped.fullmatch(name))}
    wrapper = wrappers.pop() if len(wrappers) == 1 else ""
    return {name: _canonical_name(architecture, name.removeprefix(wrapper)) for name in names}


def _canonical_name(architecture: Architecture, name: str) -> str:
    for pattern, replacement in SPELLINGS:
        name = re.sub(pattern, replacement, name)
    return f"{architecture.prefix}{name}" if name.startswith(architecture.parts) else name


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf.shape for path, leaf in leaves}


def _raise_all(faults: list[str], what: str) -> None:
    if faults:
        raise CheckpointError(f"{what} in {len(faults)} places:\n  " + "\n  ".join(faults))
