"""Models by their names, and what they come with besides the weights that are trained."""

import contextlib
import json
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import jax

from bwsk_jax import bert
from bwsk_jax.training.data.sources import SourceError, model_folder, tokenizer_path

SENTENCE_FILES = ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json")
"""What a folder of sentence-transformers has in it, beside the folders that modules.json lists."""
PICKLES = (".bin", ".pt", ".pkl", ".ckpt")


def sentence_files(folder: Path) -> dict[str, Path]:
    """Return name -> file of what sentence-transformers needs beside a BERT, {} for another model.

    Pickles are left out.
    """
    modules = []
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        modules = [str(module["path"]) for module in json.loads((folder / "modules.json").read_text("utf-8"))]
    names = list(SENTENCE_FILES) if (folder / "modules.json").is_file() else []
    for module in map(PurePosixPath, modules):
        if len(module.parts) == 1 and module.name != "..":  # a folder right here, not the model itself
            names += [f"{module}/{file.name}" for file in (folder / module).glob("*")]
    files = {name: folder / name for name in names if not name.endswith(PICKLES)}
    return {name: file for name, file in files.items() if file.is_file()}


class MaskedLM(NamedTuple):
    """A BERT with its masked-LM head, and its tokenizer."""

    config: bert.BertConfig
    params: Any
    tokenizer: Any


def load_masked_lm(name: str, tokenizer: str | None = None) -> MaskedLM:
    """Return the model in a folder or of the Hub, with its own tokenizer or another one that fits.

    Raises `UserError`, most often as `SourceError`, `CheckpointError` or `TokenizerError`.
    """
    folder = model_folder(name, "the model")
    config, params, fresh = bert.load_for_finetuning(folder, jax.random.key(0))
    if fresh:
        raise SourceError(
            f"the model {name} has no masked-LM head, and predicts no words: fine-tune it first (python -m "
            f"bwsk_jax.train --variant finetune-reversible --init {name})"
        )
    path = folder if tokenizer is None else tokenizer_path(tokenizer)
    if path is None:
        raise SourceError(f"--tokenizer {tokenizer}: give a folder, a vocab.txt or a Hub name")
    words = bert.load_tokenizer(path)
    if len(words) > config.vocab_size:
        raise SourceError(f"the tokenizer in {path} has {len(words)} pieces, and {name} {config.vocab_size}")
    if words.mask_token_id is None:
        raise SourceError(f"the tokenizer in {path} has no mask token")
    return MaskedLM(config, params, words)
