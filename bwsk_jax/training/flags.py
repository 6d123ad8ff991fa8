"""The flags of a training run: which there are, and which values each may have, wherever it is given."""

import difflib
import math
import os
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from bwsk_jax.errors import UserError
from bwsk_jax.meshes import MeshError, parse_mesh
from bwsk_jax.usage import TYPE_NAMES
from bwsk_jax.variants import UnknownVariantError, find_variant

DTYPES = {"float32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""JAX's name of what the model computes in, by the name that `--precision` has for it."""
CHOICES = {
    "preset": ("demo", "mini", "base"),
    "precision": tuple(DTYPES),
    "masking": ("mask", "bert"),
    "eval_metric": ("sampled", "exact"),
    "device": ("auto", "cpu", "gpu"),
}


def _one_of(choices: tuple[str, ...]):
    return tyro.conf.arg(metavar=f"{{{','.join(choices)}}}")


@dataclass(frozen=True)
class Flags:
    """Train one of the six BERT variants and export it for Hugging Face transformers.

    Flags left out are filled in from the preset's recipe.
    """

    variant: str = "scratch-reversible"
    """{finetune,scratch}-{conventional,analyzed,reversible}."""
    preset: Annotated[str, _one_of(CHOICES["preset"])] = "demo"
    """Size of a scratch model, and the recipe: demo takes minutes on two CPU cores."""
    dataset: str | None = None
    """'embedded' (text that ships with Python), NAME or NAME:CONFIG on the Hub, or a folder: train.txt,
    valid.txt and test.txt, or what `datasets` reads. Default: embedded for demo, else
    Salesforce/wikitext:wikitext-2-raw-v1."""
    tokenizer: str | None = None
    """A folder, a vocab.txt, a Hub name, or 'trained' (on the training text). Default: --init's; from
    scratch, trained for demo, else google-bert/bert-base-uncased."""
    init: str | None = None
    """A Hugging Face BERT to fine-tune, folder or Hub name (finetune variants only). Default:
    google-bert/bert-base-uncased."""
    out: str = "runs"
    """Folder that receives VARIANT/, results.json and the model card README.md."""
    seq_len: int | None = None
    """Tokens per window."""
    batch_size: int | None = None
    """Windows per micro-batch."""
    grad_accum: int | None = None
    """Micro-batches per optimizer step."""
    epochs: int | None = None
    """Passes over the training text."""
    max_steps: int | None = None
    """Stop, and end the learning-rate schedule, after this many optimizer steps."""
    lr: float | None = None
    """Peak learning rate."""
    masking: Annotated[str, _one_of(CHOICES["masking"])] = "mask"
    """What stands at masked positions in training: always [MASK], or BERT's 80% [MASK], 10% a random token,
    10% the token itself. Evaluation always has [MASK] there, so that settings compare."""
    eval_metric: Annotated[str, _one_of(CHOICES["eval_metric"])] = "sampled"
    """How the exported model is measured: with 15% of the tokens masked at once, as validations in training
    always are, or 'exact', every token masked one at a time, about seq_len / 2 times as long."""
    precision: Annotated[str, _one_of(CHOICES["precision"])] = "float32"
    """What the model computes in. Parameters, loss and optimizer are float32; fp16 scales its loss."""
    max_overhead: float | None = None
    """Recomputation the backward pass may do, as a fraction of the step's FLOPs; inf is least memory."""
    max_bytes: int | None = None
    """Bytes that a layer may save for the backward pass."""
    fit: str | None = None
    """Bytes that the whole step may take, like 8GiB or 500MB: least recomputation within them, as compiled.
    At most one of this, --max-overhead and --max-bytes."""
    dry_run: bool = False
    """Will it fit? Compile the step, print its memory as JSON, and train nothing. Asks the Hub nothing."""
    target: str | None = None
    """With --dry-run, the machine to compile for in place of this one: v5e, v5p, v6e, h100, a100."""
    save_every: float = 60.0
    """Seconds of work that may be lost when the process is killed; the same command resumes."""
    seed: int = 0
    """Of initialisation, order of windows, masks and dropout."""
    device: Annotated[str, _one_of(CHOICES["device"])] = "auto"
    """Where to compute. auto is JAX's own choice: a GPU where it finds one."""
    mesh: str | None = None
    """Devices that share the work, like data=8, fsdp=8 or data=4,model=2. data and fsdp split the windows of
    --batch-size, fsdp also parameters, gradients and optimizer, model the layers. Default: one device."""
    log_dir: str | None = None
    """Folder that receives TensorBoard events, in VARIANT/."""


POSITIVE = ("seq_len", "batch_size", "grad_accum", "epochs", "max_steps", "lr", "max_bytes")
FINITE = ("lr",)
NOT_NEGATIVE = ("max_overhead", "save_every", "seed")
# JAX takes a seed as a signed integer of 64 bits.
LIMITS = {"seed": 2**63}
TYPES = {name: typing.get_args(hint) or (hint,) for name, hint in typing.get_type_hints(Flags).items()}
PATHS = ("dataset", "tokenizer", "init", "out", "log_dir", "config")
# What transformers and its examples call a flag.
OTHER_NAMES = {
    "learning_rate": "lr",
    "per_device_train_batch_size": "batch_size",
    "gradient_accumulation_steps": "grad_accum",
    "num_train_epochs": "epochs",
    "max_seq_length": "seq_len",
    "model_name_or_path": "init",
    "output_dir": "out",
    "logging_dir": "log_dir",
}


class FlagError(UserError):
    """A flag, or an entry of a file of flags, that cannot be used.

    Its value is not allowed, or it contradicts another flag, the model or the file system.
    """


def type_fault(name: str, value: Any) -> str | None:
    """Return which type flag `name` must have if `value`, read from JSON, has another; None if it fits.

    >>> type_fault("epochs", 3), type_fault("lr", 1), type_fault("epochs", "3")
    (None, None, 'must be an integer or null')
    """
    kinds = TYPES[name]
    if type(value) in kinds or (float in kinds and type(value) is int):
        return None
    return f"must be {' or '.join(TYPE_NAMES[kind] for kind in kinds)}"


def value_fault(name: str, value: Any) -> str | None:
    """Return what is wrong with `value`, which has the type of flag `name`; None if it may be used.

    >>> value_fault("preset", "dem")
    "is not one of demo, mini, base: did you mean 'demo'?"
    >>> value_fault("lr", -1.0), value_fault("lr", None)
    ('must be positive', None)
    """
    if value is None:
        return None
    if value == "":
        return "is empty: give a value, or leave it out"
    if name in PATHS and value.startswith("~"):
        return f"begins with a ~ that no shell has replaced: give {os.path.expanduser(value)}"
    if name in CHOICES and value not in CHOICES[name]:
        return f"is not one of {', '.join(CHOICES[name])}: did you mean {nearest(value, CHOICES[name])!r}?"
    if name in POSITIVE and not value > 0:
        return "must be positive"
    if name in FINITE and not math.isfinite(value):
        return "must be finite"
    if name in NOT_NEGATIVE and not value >= 0:
        return "must not be negative"
    if name in LIMITS and not value < LIMITS[name]:
        return f"must be less than {LIMITS[name]}"
    if name == "variant":
        try:
            find_variant(value)
        except UnknownVariantError as unknown:
            return f"is no variant: {unknown}"
    if name == "mesh":
        try:
            parse_mesh(value)
        except MeshError as fault:
            return f"is no mesh: {fault}"
    return None


def nearest(name: str, names: Iterable[str]) -> str:
    """Return the one of `names` that is spelt most like `name`, or that transformers calls so.

    >>> nearest("epoch", TYPES), nearest("learning_rate", TYPES)
    ('epochs', 'lr')
    """
    if name in OTHER_NAMES:
        return OTHER_NAMES[name]
    (closest,) = difflib.get_close_matches(name, list(names), n=1, cutoff=0.0)
    return closest
