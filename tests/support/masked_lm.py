"""A small BERT as transformers makes it and saves it, sure of its words, and how it rates masked tokens."""

from pathlib import Path

from bwsk_jax import bert
from tests.support.texts import WORDS
from tests.support.tiny import CONFIG, MASK_ID


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


def losses(network, windows, positions, mask_id=MASK_ID):
    """The cross-entropies that transformers gives the tokens at the positions, all masked at once."""
    import torch

    windows, positions = torch.tensor(windows).long(), torch.tensor(positions).long()
    labels = torch.take_along_dim(windows, positions, 1)
    with torch.no_grad():
        logits = network(windows.scatter(1, positions, mask_id)).logits
    at = torch.take_along_dim(logits, positions[..., None], 1).double()
    return -torch.take_along_dim(torch.log_softmax(at, -1), labels[..., None], 2)
