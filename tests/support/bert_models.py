"""A tiny configuration with nothing at its default, the model transformers makes of it, and inputs."""

import numpy as np

from bwsk_jax.bert import BertConfig

TINY = BertConfig(
    vocab_size=101,
    hidden_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=80,
    max_position_embeddings=40,
    type_vocab_size=3,
)


def torch_model(config, seed=0, dtype="float32"):
    """A BertForMaskedLM by transformers, its layer norms and biases moved off their initial 1 and 0."""
    import torch
    import transformers

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model = transformers.BertForMaskedLM(transformers.BertConfig(**config.to_hf())).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "LayerNorm" in name or name.endswith("bias"):
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.to(getattr(torch, dtype))


def tokens(config, shape, seed=0):
    """Random ids without [PAD], an attention mask with a masked tail in each row but one, token types."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(1, config.vocab_size, shape)
    lengths = rng.integers(1, shape[1] + 1, shape[0])
    lengths[0] = shape[1]
    mask = np.arange(shape[1])[None, :] < lengths[:, None]
    types = rng.integers(0, config.type_vocab_size, shape)
    return ids.astype(np.int32), mask.astype(np.int32), types.astype(np.int32)
