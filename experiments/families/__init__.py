"""Families of models, each as its own library or paper defines its layer.

`FAMILIES[name](dtype, size)` builds a stack of layers of that family.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from experiments.families import invertible, recurrences, transformers, vision
from experiments.families.stack import Size as Size
from experiments.families.stack import Stack as Stack

FAMILIES: dict[str, Callable[[Any, Size], Stack]] = {
    "BERT, post-norm": transformers.bert_layer,
    "GPT-2 (Linen)": transformers.gpt2,
    "LLaMA": transformers.llama,
    "T5": transformers.t5,
    "ViT (NNX)": transformers.vit,
    "transformer (Equinox)": transformers.equinox_layer,
    "transformer (Haiku)": transformers.haiku_layer,
    "MLP-Mixer (Equinox)": transformers.mixer,
    "mixture of experts": transformers.mixture_of_experts,
    "Mamba, associative scan": recurrences.mamba,
    "Mamba, scan": recurrences.state_space,
    "ResNet (Linen)": vision.resnet,
    "ConvNeXt (Haiku)": vision.convnext,
    "GRU (Linen)": recurrences.linen_gru,
    "GRU (NNX)": recurrences.nnx_gru,
    "GRU (Equinox)": recurrences.equinox_gru,
    "GRU (Haiku)": recurrences.haiku_gru,
    "RevNet": invertible.revnet,
    "RevNet, pre-activation": functools.partial(invertible.revnet, pre_activation=True),
    "Reformer": invertible.reformer,
    "RealNVP": invertible.real_nvp,
    "Glow": invertible.glow,
    "leapfrog": invertible.leapfrog,
    "momentum": invertible.momentum,
}
