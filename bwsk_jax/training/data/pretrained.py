"""A model that fills gaps, by its name: what is measured and asked outside training."""

from typing import Any, NamedTuple

import jax

from bwsk_jax import bert
from bwsk_jax.training.data.sources import SourceError, model_folder, tokenizer_path


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
