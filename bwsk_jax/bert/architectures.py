"""The architectures of Hugging Face that are computed here: BERT and its siblings, each as a description.

All have BERT's layer. They differ in the names of tensors and of configuration keys, in which embeddings are
summed, in where positions begin, and in the activation of the masked-LM head. What is not in a description
is the same for all of them. To support another sibling is to describe it here.

- BERT: J. Devlin et al., 2019, arXiv:1810.04805.
- RoBERTa: Y. Liu et al., 2019, arXiv:1907.11692.
- DistilBERT: V. Sanh et al., 2019, arXiv:1910.01108.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

__all__ = ["ARCHITECTURES", "Architecture"]

Kind = Mapping[str, tuple[str, bool]]
"""What a kind of module stores: Hugging Face's name -> (our name, whether the matrix is transposed)."""

EMBEDDING: Kind = {"weight": ("embedding", False)}
DENSE: Kind = {"weight": ("kernel", True), "bias": ("bias", False)}
LAYER_NORM: Kind = {"weight": ("scale", False), "bias": ("bias", False)}
BIAS: Kind = {"bias": ("bias", False)}

Modules = Mapping[str, tuple[str, Kind]]
"""Hugging Face's module -> (our module, its kind). {layer} stands for an index into our leading axis L."""


@dataclasses.dataclass(frozen=True, eq=False)
class Architecture:
    """How one architecture is called and stored, and where its function differs from BERT's.

    >>> roberta = ARCHITECTURES["roberta"]
    >>> roberta.masked_lm, roberta.modules["roberta.embeddings.LayerNorm"][0]
    ('RobertaForMaskedLM', 'embeddings.layer_norm')
    >>> ARCHITECTURES["distilbert"].key("num_hidden_layers")
    'n_layers'
    """

    model_type: str
    """The value of that key in ``config.json``."""
    masked_lm: str
    """The class of transformers that holds encoder and masked-LM head."""
    prefix: str
    """What stands before the names of the encoder's tensors, where a head lies beside it."""
    parts: tuple[str, ...]
    """What these names begin with where the prefix is missing, because the encoder was stored alone."""
    encoder: Modules
    """The modules of the encoder, without the prefix."""
    head: Modules
    """The modules of the masked-LM head."""
    required: Mapping[str, Any]
    """Keys of a ``config.json`` that would make it another function, and the only value that is supported."""
    keys: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Our field -> its key in ``config.json``, where that has another name."""
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Our field -> what an absent key means, where that is not BERT's default."""
    constants: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Our field -> its only value, where ``config.json`` has no key for it."""
    copies: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """A second name of a tensor -> its first. Some writers store both, and some the second alone."""
    ignored: frozenset[str] = frozenset()
    """Tensors that some writers store, and that say nothing which is not known."""
    kept: tuple[str, ...] = ()
    """What the names begin with of tensors that are no part of the masked LM, but of models around it."""
    head_act: str | None = None
    """The activation of the masked-LM head; None is that of the layers."""
    counts_tokens: bool = False
    """Whether positions number the tokens that are not padding, from ``pad_token_id`` + 1 on, and padding
    stands at ``pad_token_id``. If not, the number of a position is its place in the row."""

    @property
    def modules(self) -> Modules:
        """The modules of encoder and head, under their full names."""
        return {f"{self.prefix}{name}": module for name, module in self.encoder.items()} | dict(self.head)

    def key(self, field: str) -> str:
        """Return the name that ``config.json`` has for a field of our configuration."""
        return self.keys.get(field, field)


BERT_ENCODER: Modules = {
    "embeddings.word_embeddings": ("embeddings.word", EMBEDDING),
    "embeddings.position_embeddings": ("embeddings.position", EMBEDDING),
    "embeddings.token_type_embeddings": ("embeddings.token_type", EMBEDDING),
    "embeddings.LayerNorm": ("embeddings.layer_norm", LAYER_NORM),
    "encoder.layer.{layer}.attention.self.query": ("layers.attention.query", DENSE),
    "encoder.layer.{layer}.attention.self.key": ("layers.attention.key", DENSE),
    "encoder.layer.{layer}.attention.self.value": ("layers.attention.value", DENSE),
    "encoder.layer.{layer}.attention.output.dense": ("layers.attention.output", DENSE),
    "encoder.layer.{layer}.attention.output.LayerNorm": ("layers.attention.layer_norm", LAYER_NORM),
    "encoder.layer.{layer}.intermediate.dense": ("layers.feed_forward.up", DENSE),
    "encoder.layer.{layer}.output.dense": ("layers.feed_forward.down", DENSE),
    "encoder.layer.{layer}.output.LayerNorm": ("layers.feed_forward.layer_norm", LAYER_NORM),
}

BERT = Architecture(
    model_type="bert",
    masked_lm="BertForMaskedLM",
    prefix="bert.",
    parts=("embeddings.", "encoder.", "pooler."),
    encoder=BERT_ENCODER,
    head={
        "cls.predictions.transform.dense": ("head.transform", DENSE),
        "cls.predictions.transform.LayerNorm": ("head.layer_norm", LAYER_NORM),
        "cls.predictions": ("head.decoder", BIAS),
    },
    required={
        "position_embedding_type": "absolute",
        "is_decoder": False,
        "add_cross_attention": False,
        "tie_word_embeddings": True,
    },
    copies={"cls.predictions.decoder.bias": "cls.predictions.bias"},
    ignored=frozenset({"bert.embeddings.position_ids", "cls.predictions.decoder.weight"}),
    kept=("bert.pooler.", "cls.seq_relationship."),
)

ROBERTA = Architecture(
    model_type="roberta",
    masked_lm="RobertaForMaskedLM",
    prefix="roberta.",
    parts=("embeddings.", "encoder.", "pooler."),
    encoder=BERT_ENCODER,
    head={
        "lm_head.dense": ("head.transform", DENSE),
        "lm_head.layer_norm": ("head.layer_norm", LAYER_NORM),
        "lm_head": ("head.decoder", BIAS),
    },
    required=BERT.required,
    defaults={"vocab_size": 50265, "pad_token_id": 1},
    copies={"lm_head.decoder.bias": "lm_head.bias"},
    ignored=frozenset({"roberta.embeddings.position_ids", "lm_head.decoder.weight"}),
    kept=("roberta.pooler.",),
    head_act="gelu",
    counts_tokens=True,
)

DISTILBERT = Architecture(
    model_type="distilbert",
    masked_lm="DistilBertForMaskedLM",
    prefix="distilbert.",
    parts=("embeddings.", "transformer."),
    encoder={
        "embeddings.word_embeddings": ("embeddings.word", EMBEDDING),
        "embeddings.position_embeddings": ("embeddings.position", EMBEDDING),
        "embeddings.LayerNorm": ("embeddings.layer_norm", LAYER_NORM),
        "transformer.layer.{layer}.attention.q_lin": ("layers.attention.query", DENSE),
        "transformer.layer.{layer}.attention.k_lin": ("layers.attention.key", DENSE),
        "transformer.layer.{layer}.attention.v_lin": ("layers.attention.value", DENSE),
        "transformer.layer.{layer}.attention.out_lin": ("layers.attention.output", DENSE),
        "transformer.layer.{layer}.sa_layer_norm": ("layers.attention.layer_norm", LAYER_NORM),
        "transformer.layer.{layer}.ffn.lin1": ("layers.feed_forward.up", DENSE),
        "transformer.layer.{layer}.ffn.lin2": ("layers.feed_forward.down", DENSE),
        "transformer.layer.{layer}.output_layer_norm": ("layers.feed_forward.layer_norm", LAYER_NORM),
    },
    head={
        "vocab_transform": ("head.transform", DENSE),
        "vocab_layer_norm": ("head.layer_norm", LAYER_NORM),
        "vocab_projector": ("head.decoder", BIAS),
    },
    required={"tie_word_embeddings": True},
    keys={
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
        "hidden_act": "activation",
        "hidden_dropout_prob": "dropout",
        "attention_probs_dropout_prob": "attention_dropout",
    },
    defaults={"num_hidden_layers": 6},
    constants={"type_vocab_size": 0, "layer_norm_eps": 1e-12},
    ignored=frozenset({"distilbert.embeddings.position_ids", "vocab_projector.weight"}),
)

ARCHITECTURES: Mapping[str, Architecture] = {
    architecture.model_type: architecture for architecture in (BERT, ROBERTA, DISTILBERT)
}
"""``model_type`` -> its description."""
