"""A small BERT as transformers makes it and saves it, sure of its words, with a tokenizer."""

from pathlib import Path

from bwsk_jax import bert
from tests.support.texts import WORDS
from tests.support.tiny import CONFIG


def write_masked_lm(folder: Path):
    """Write the model and its tokenizer to `folder`; return both."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(**CONFIG.to_hf() | {"initializer_range": 0.5})
    network = transformers.BertForMaskedLM(config).eval()
    network.save_pretrained(folder)
    tokenizer = bert.train_tokenizer([" ".join(WORDS)], vocab_size=CONFIG.vocab_size)
    bert.save_tokenizer(tokenizer, folder)
    return network, tokenizer
