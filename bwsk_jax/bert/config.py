"""The sizes, rates and constants of a BERT or a sibling, under BERT's names, and the presets."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax

from bwsk_jax.bert.architectures import ARCHITECTURES, BERT, Architecture
from bwsk_jax.errors import UserError


def _erf_gelu(x: jax.Array) -> jax.Array:
    return 0.5 * x * jax.lax.erfc(x * -math.sqrt(0.5))


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": _erf_gelu,
    "gelu_new": functools.partial(jax.nn.gelu, approximate=True),
    "gelu_pytorch_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "tanh": jax.numpy.tanh,
}

SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
)

RATES = ("hidden_dropout_prob", "attention_probs_dropout_prob")

STORAGE_DTYPES = ("float32", "float16", "bfloat16")


class BertConfigError(UserError):
    """The configuration is one that no model here can have; the message lists every fault."""


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """Sizes, rates and constants of a BERT or a sibling; the defaults are bert-base-uncased.

    Fields have the names and meanings that Hugging Face gives them for BERT. ``hidden_act`` is one of
    ``ACTIVATIONS``; ``pad_token_id`` (or None) is the row of the word embedding that starts at zero.
    ``model_type`` is one of ``ARCHITECTURES``: for "distilbert" ``type_vocab_size`` is 0, since it has no
    token types, and for "roberta" positions begin at ``pad_token_id`` + 1.

    Raises:
        BertConfigError: a size is not a positive integer, the heads do not divide the hidden size, a rate is
            outside [0, 1), or activation or architecture are not supported. One message lists all faults.

    >>> BertConfig(hidden_size=128, num_attention_heads=2).head_size
    64
    """

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02
    pad_token_id: int | None = 0
    model_type: str = BERT.model_type

    def __post_init__(self):
        faults = list(_faults(self))
        if faults:
            raise BertConfigError("unusable BERT configuration: " + "; ".join(faults))

    @property
    def head_size(self) -> int:
        """The width of one attention head, D = H / N."""
        return self.hidden_size // self.num_attention_heads

    @property
    def architecture(self) -> Architecture:
        """What the architecture calls its tensors and keys, and where its function differs from BERT's."""
        return ARCHITECTURES[self.model_type]

    @property
    def head_act(self) -> str:
        """The activation of the masked-LM head."""
        return self.architecture.head_act or self.hidden_act

    @property
    def counts_from(self) -> int | None:
        """The position of padding, after which tokens are counted; None where positions are places."""
        return self.pad_token_id if self.architecture.counts_tokens else None

    @property
    def longest_input(self) -> int:
        """How many positions an input may have.

        >>> BertConfig().longest_input
        512
        >>> BertConfig(model_type="roberta", max_position_embeddings=514, pad_token_id=1).longest_input
        512
        """
        unused = 0 if self.counts_from is None else self.counts_from + 1
        return self.max_position_embeddings - unused

    @classmethod
    def from_hf(cls, values: Mapping[str, Any]) -> BertConfig:
        """Return the configuration that a Hugging Face ``config.json`` with these values describes.

        Absent keys have Hugging Face's defaults. Keys that do not change the masked-LM function are ignored.

        Raises:
            BertConfigError: the architecture is not supported, or is a variant that is not computed here.

        >>> BertConfig.from_hf({"model_type": "bert", "num_hidden_layers": 4}).num_hidden_layers
        4
        >>> BertConfig.from_hf({"model_type": "distilbert", "n_layers": 3}).num_hidden_layers
        3
        """
        model_type = values.get("model_type", BERT.model_type)
        if model_type not in list(ARCHITECTURES):
            raise BertConfigError(f"unsupported config.json: {_unknown(model_type)}")
        architecture = ARCHITECTURES[model_type]
        faults = [
            f"{name} is {values[name]!r}, only {required!r} is supported"
            for name, required in architecture.required.items()
            if name in values and values[name] != required
        ]
        if faults:
            raise BertConfigError("unsupported config.json: " + "; ".join(faults))
        keys = {field.name: architecture.key(field.name) for field in dataclasses.fields(cls)}
        given = {field: values[key] for field, key in keys.items() if key in values}
        return cls(**{**architecture.defaults, **given, **architecture.constants})

    def to_hf(self, dtype: str = "float32") -> dict[str, Any]:
        """Return the values of a ``config.json`` that ``AutoModelForMaskedLM`` accepts.

        ``dtype`` is the type in which the weights beside it are stored, and in which transformers loads them.

        >>> BertConfig().to_hf()["architectures"]
        ['BertForMaskedLM']
        """
        if dtype not in STORAGE_DTYPES:
            raise BertConfigError(f"dtype is {dtype!r}, expected one of {', '.join(STORAGE_DTYPES)}")
        architecture = self.architecture
        return {
            "architectures": [architecture.masked_lm],
            **architecture.required,
            **{
                architecture.key(field): value
                for field, value in dataclasses.asdict(self).items()
                if field not in architecture.constants
            },
            "dtype": dtype,
        }


def _unknown(model_type: Any) -> str:
    *most, last = (repr(name) for name in ARCHITECTURES)
    return f"model_type is {model_type!r}, only {', '.join(most)} and {last} are supported"


def _faults(config: BertConfig):
    if config.model_type not in list(ARCHITECTURES):
        yield _unknown(config.model_type)
        return
    constants, key = config.architecture.constants, config.architecture.key
    for name, constant in constants.items():
        if (value := getattr(config, name)) != constant:
            yield f"{name} is {value!r}, in {config.model_type} it is always {constant!r}"
    for name in SIZES:
        value = getattr(config, name)
        if name not in constants and (not isinstance(value, int) or isinstance(value, bool) or value <= 0):
            yield f"{key(name)} is {value!r}, expected a positive integer"
    for name in RATES:
        value = getattr(config, name)
        if not _is_number(value) or not 0 <= value < 1:
            yield f"{key(name)} is {value!r}, expected a rate in [0, 1)"
    for name in ("layer_norm_eps", "initializer_range"):
        value = getattr(config, name)
        if not _is_number(value) or not value > 0:
            yield f"{name} is {value!r}, expected a positive number"
    if config.hidden_act not in ACTIVATIONS:
        yield f"{key('hidden_act')} is {config.hidden_act!r}, expected one of {', '.join(ACTIVATIONS)}"
    sizes = (config.hidden_size, config.num_attention_heads, config.vocab_size)
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        return
    if config.hidden_size % config.num_attention_heads:
        yield (
            f"{key('hidden_size')} {config.hidden_size} is not a multiple of "
            f"{key('num_attention_heads')} {config.num_attention_heads}"
        )
    yield from _padding_faults(config)


def _padding_faults(config: BertConfig):
    pad, positions = config.pad_token_id, config.max_position_embeddings
    if pad is not None and not (isinstance(pad, int) and 0 <= pad < config.vocab_size):
        yield f"pad_token_id is {pad!r}, expected None or a row below vocab_size {config.vocab_size}"
    elif config.architecture.counts_tokens and pad is None:
        yield f"pad_token_id is None, and {config.model_type} counts positions from it"
    elif isinstance(positions, int) and positions > 0 >= config.longest_input:
        yield f"max_position_embeddings is {positions}, expected more than pad_token_id {pad} + 1"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


PRESETS: dict[str, BertConfig] = {
    "demo": BertConfig(
        vocab_size=2048,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=512,
        max_position_embeddings=128,
    ),
    "mini": BertConfig(
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=1024,
    ),
    "base": BertConfig(),
}
