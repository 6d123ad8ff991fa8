"""RoBERTa and DistilBERT as transformers makes them, with random weights; and as folders, with tokenizers."""

import json
from pathlib import Path

import numpy as np

from bwsk_jax import bert
from bwsk_jax.bert.huggingface import import_tensors
from tests.support.texts import WORDS

SIBLINGS = ("roberta", "distilbert")
PAD = {"roberta": 1, "distilbert": 0}
BPE_TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def torch_sibling(model_type, seed=0, **sizes):
    """A masked LM by transformers with these sizes, under its own names, none of its numbers at 0 or 1."""
    import torch
    import transformers

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    config = transformers.AutoConfig.for_model(model_type, **sizes)
    model = transformers.AutoModelForMaskedLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_((0.2 if parameter.ndim == 1 else 0.02) * torch.randn_like(parameter))
    return model


def small_sizes(model_type, vocab_size=101):
    """Sizes that are nowhere the default, with room for 24 tokens."""
    if model_type == "distilbert":
        sizes = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 40, "max_position_embeddings": 24}
    else:
        sizes = {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 40,
            "max_position_embeddings": 26,
            "type_vocab_size": 1,
            "layer_norm_eps": 1e-5,
        }
    return sizes | {"vocab_size": vocab_size}


def ours(model):
    """The configuration and the parameters that we make of a model of transformers."""
    config = bert.BertConfig.from_hf(model.config.to_dict())
    tensors = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
    return config, import_tensors(config, tensors)


def padded_tokens(config, shape, side, seed=0):
    """Random ids, of which a part of each row but the first is padding, and the mask that hides it."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(2, config.vocab_size, shape)
    tokens = rng.integers(1, shape[1] + 1, shape[0])
    tokens[0] = shape[1]
    is_token = np.arange(shape[1])[None, :] < tokens[:, None]
    is_token = {"right": is_token, "left": is_token[:, ::-1], "nowhere": np.ones_like(is_token)}[side]
    return np.where(is_token, ids, config.pad_token_id).astype(np.int32), is_token.astype(np.int32)


def write_sibling(model_type, folder: Path):
    """Write a model that is sure of its words and its tokenizer to `folder`; return both."""
    import torch

    tokenizer = byte_level_bpe() if model_type == "roberta" else word_piece()
    network = torch_sibling(model_type, **small_sizes(model_type, len(tokenizer)))
    with torch.no_grad():
        network.get_input_embeddings().weight.mul_(20)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return network, tokenizer


def byte_level_bpe():
    """RoBERTa's tokenizer, trained on a few words; its mask token takes the space before it."""
    from tokenizers import AddedToken, ByteLevelBPETokenizer
    from transformers import RobertaTokenizer

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator([" ".join(WORDS)] * 3, 300, special_tokens=BPE_TOKENS, show_progress=False)
    model = json.loads(trained.to_str())["model"]
    mask = AddedToken("<mask>", lstrip=True, special=True)
    return RobertaTokenizer(vocab=model["vocab"], merges=[tuple(m) for m in model["merges"]], mask_token=mask)


def word_piece():
    """DistilBERT's tokenizer, trained on a few words."""
    from transformers import DistilBertTokenizer

    trained = bert.train_tokenizer([" ".join(WORDS)], vocab_size=61)
    return DistilBertTokenizer(vocab=trained.get_vocab(), model_max_length=24)
