"""Families of models, each with the layer that its own library or paper defines.

`FAMILIES[name](dtype, size)` builds a stack of layers of that family. The layers are in `transformers`,
`recurrences`, `vision` and `invertible`. `stack` says what a stack is, `libraries` turns modules of four
libraries into pairs of functions, and `measure` finds out what the gradient of a stack keeps.
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
