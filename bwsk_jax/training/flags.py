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
from bwsk_jax.training.recipe import LEARNING_RATES, POSITIONS, RECIPES, SCHEDULES, recipe_of
from bwsk_jax.usage import TYPE_NAMES
from bwsk_jax.variants import UnknownVariantError, find_variant

DTYPES = {"float32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""JAX's name of what the model computes in, by the name that `--precision` has for it."""
PRESETS = tuple(RECIPES["best"])
CHOICES = {
    "preset": PRESETS,
    "precision": tuple(DTYPES),
    "masking": ("mask", "bert"),
    "recipe": tuple(RECIPES),
    "schedule": SCHEDULES,
    "positions": POSITIONS,
    "eval_metric": ("sampled", "exact"),
    "device": ("auto", "cpu", "gpu"),
    "windows": ("packed", "documents"),
}


def _by_preset(values: dict[str, Any]) -> str:
    """Return the value of each preset, those that agree together.

    >>> _by_preset({"demo": 64, "mini": 512, "base": 512}), _by_preset({"demo": 4, "mini": 4, "base": 4})
    ('demo 64, mini and base 512', '4')
    """
    presets = {value: [name for name in values if values[name] == value] for value in values.values()}
    if len(presets) == 1:
        return str(*presets)
    return ", ".join(f"{' and '.join(names)} {value}" for value, names in presets.items())


def _of_the_recipe(field: str, experiment: str = "scratch") -> str:
    return _by_preset({preset: getattr(recipe_of(preset, experiment), field) for preset in PRESETS})


def shown(metavar: str, default: str | None = None):
    """How `--help` shows a flag that may be left out: without None, and with what it then becomes."""

    def hint(given: str) -> str:
        said = default if given == "None" else given
        return f"(default: {said})" if said else "(optional)"

    return tyro.conf.arg(metavar=metavar, help_behavior_hint=hint)


def one_of(choices: tuple[str, ...]):
    """How `--help` shows a flag that takes one of a few words."""
    return tyro.conf.arg(metavar=_metavar(choices))


def _metavar(choices: tuple[str, ...]) -> str:
    return f"{{{','.join(choices)}}}"


def _in_recipe(field: str, metavar: str):
    return shown(metavar, _of_the_recipe(field))


RATES = {experiment: _of_the_recipe(field) for experiment, field in LEARNING_RATES.items()}
DROPOUT = f"from scratch {_of_the_recipe('dropout')}; fine-tuning the model's own"


@dataclass(frozen=True)
class Flags:
    """Train one of the six BERT variants and export it for Hugging Face transformers.

    Flags left out are filled in from the preset's recipe.
    """

    variant: str = "scratch-reversible"
    """{finetune,scratch}-{conventional,analyzed,reversible}."""
    preset: Annotated[str, one_of(CHOICES["preset"])] = "demo"
    """Size of a scratch model: demo takes minutes on two CPU cores."""
    recipe: Annotated[
        str | None, shown(_metavar(CHOICES["recipe"]), "demo best, mini and base reference")
    ] = None
    """Values of the flags below: the reference's, or those that learn most from scratch. demo has only the
    latter."""
    dataset: Annotated[
        str | None, shown("STR", "demo embedded, mini and base Salesforce/wikitext:wikitext-2-raw-v1")
    ] = None
    """'embedded' (text that ships with Python), NAME or NAME:CONFIG on the Hub, or a folder: train.txt,
    valid.txt and test.txt, or .txt, .jsonl, .csv or .parquet files."""
    text_column: str = "text"
    """The column of --dataset that holds the text, if it has columns."""
    windows: Annotated[str, one_of(CHOICES["windows"])] = "packed"
    """How documents, the rows of --dataset, fill windows: one after the other, or with [CLS] before and [SEP]
    after each. In both, short ones share a window and long ones go on in the next."""
    tokenizer: Annotated[
        str | None,
        shown("STR", "--init's; from scratch demo trained, mini and base google-bert/bert-base-uncased"),
    ] = None
    """A folder, a vocab.txt, a Hub name, or 'trained' (on the training text)."""
    init: Annotated[str | None, shown("STR", "google-bert/bert-base-uncased")] = None
    """A Hugging Face BERT, RoBERTa or DistilBERT to fine-tune: folder or Hub name (finetune variants)."""
    out: str = "runs"
    """Folder that receives VARIANT/, results.json and the model card README.md."""
    seq_len: Annotated[int | None, _in_recipe("seq_len", "INT")] = None
    """Tokens per window."""
    batch_size: Annotated[int | None, _in_recipe("batch_size", "INT")] = None
    """Windows per micro-batch."""
    grad_accum: Annotated[int | None, _in_recipe("grad_accum", "INT")] = None
    """Micro-batches per optimizer step."""
    epochs: Annotated[int | None, _in_recipe("epochs", "INT")] = None
    """Passes over the training text. A finished run goes on if this, or --max-steps, is raised."""
    max_steps: Annotated[int | None, shown("INT", "--epochs alone decide")] = None
    """Stop, and end the learning-rate schedule, after this many optimizer steps."""
    lr: Annotated[
        float | None, shown("FLOAT", f"from scratch {RATES['scratch']}; fine-tuning {RATES['finetune']}")
    ] = None
    """Peak learning rate."""
    schedule: Annotated[str | None, _in_recipe("schedule", _metavar(CHOICES["schedule"]))] = None
    """How the learning rate goes on after its warm-up: to 0 like a cosine or a line, to a hundredth of the
    peak exponentially, or not at all."""
    warmup: Annotated[float | None, _in_recipe("warmup", "FLOAT")] = None
    """Share of the steps over which the learning rate rises to its peak."""
    weight_decay: Annotated[float | None, _in_recipe("weight_decay", "FLOAT")] = None
    """AdamW's weight decay, of all parameters."""
    beta1: Annotated[float | None, _in_recipe("beta1", "FLOAT")] = None
    """AdamW's decay of the mean of the gradients."""
    beta2: Annotated[float | None, _in_recipe("beta2", "FLOAT")] = None
    """AdamW's decay of the mean of their squares."""
    clip: Annotated[float | None, _in_recipe("clip", "FLOAT")] = None
    """Global norm that the gradient is clipped to; inf clips nothing."""
    mask_rate: Annotated[float | None, _in_recipe("mask_rate", "FLOAT")] = None
    """Share of the tokens to be predicted in training. Evaluation masks 15% always, so that settings
    compare."""
    dropout: Annotated[float | None, shown("FLOAT", DROPOUT)] = None
    """Rate of dropout, also on attention probabilities."""
    positions: Annotated[str | None, _in_recipe("positions", _metavar(CHOICES["positions"]))] = None
    """What the embedding of positions starts from: drawn at random like all else, or sinusoids, which tell
    neighbours. From scratch only."""
    validate_every: Annotated[int | None, _in_recipe("validate_every", "INT")] = None
    """Optimizer steps between validations. The end of each epoch is validated as well."""
    patience: Annotated[int | None, _in_recipe("patience", "INT")] = None
    """Validations in a row without a new best after which training stops."""
    masking: Annotated[str, one_of(CHOICES["masking"])] = "mask"
    """What stands at masked positions in training: always the mask token, or BERT's 80% mask token, 10% a
    random token, 10% the token itself. Evaluation always has the mask token, so that settings compare."""
    eval_metric: Annotated[str, one_of(CHOICES["eval_metric"])] = "sampled"
    """How the exported model is measured: with 15% of the tokens masked at once, as validations in training
    always are, or 'exact', every token masked one at a time, about seq_len / 2 times as long."""
    precision: Annotated[str, one_of(CHOICES["precision"])] = "float32"
    """What the model computes in. Parameters, loss and optimizer are float32; fp16 scales its loss."""
    max_overhead: Annotated[float | None, shown("FLOAT", "0.03")] = None
    """Time that a layer may take beyond the fastest plan's, as a fraction of its forward and backward pass;
    inf is least memory. On a CPU it is recomputation, as a fraction of FLOPs."""
    max_bytes: Annotated[int | None, shown("INT")] = None
    """Bytes that a layer may save for the backward pass."""
    fit: Annotated[str | None, shown("BYTES")] = None
    """Bytes that the whole step may take, like 8GiB or 500MB: least overhead within them, as compiled.
    At most one of this, --max-overhead and --max-bytes."""
    dry_run: bool = False
    """Will it fit? Compile the step, print its memory as JSON, and train nothing. Asks the Hub nothing."""
    target: Annotated[str | None, shown("STR", "this machine")] = None
    """With --dry-run, the machine to compile for in place of this one: v5e, v5p, v6e, h100, a100."""
    save_every: float = 60.0
    """Seconds of work that may be lost when the process is killed; the same command resumes."""
    seed: int = 0
    """Of initialisation, order of windows, masks and dropout."""
    device: Annotated[str, one_of(CHOICES["device"])] = "auto"
    """Where to compute. auto is JAX's own choice: a TPU or GPU where it finds one, or JAX_PLATFORMS."""
    mesh: Annotated[str | None, shown("STR", "one device")] = None
    """Devices that share the work, like data=8, fsdp=8 or data=4,model=2. data and fsdp split the windows of
    --batch-size, fsdp also parameters, gradients and optimizer, model the layers."""
    coordinator: Annotated[str | None, shown("HOST:PORT", "one process")] = None
    """Where process 0 is reached, if several processes share the devices of --mesh; 'auto' takes this and the
    next two from SLURM, Open MPI or a Cloud TPU."""
    num_processes: Annotated[int | None, shown("INT")] = None
    """How many processes there are. Each is given the same command but for --process-id."""
    process_id: Annotated[int | None, shown("INT")] = None
    """Which of them this one is, from 0. Process 0 writes and reports."""
    log_dir: Annotated[str | None, shown("DIR")] = None
    """Folder that receives TensorBoard events, in VARIANT/."""
    wandb: Annotated[str | None, shown("PROJECT")] = None
    """Project of Weights & Biases that receives what TensorBoard does, if wandb is installed."""
    push_to_hub: Annotated[str | None, shown("NAME")] = None
    """Repository of the Hub that receives all finished variants in --out at the end; a new one is private."""
    license: Annotated[str | None, shown("STR", "what --init's card states")] = None
    """License of the model, as the Hub spells it, for the model card."""
    language: Annotated[str | None, shown("STR", "what the cards of --init and --dataset state")] = None
    """Languages of the text, like en or en,de, for the model card."""


OF_PROCESSES = ("coordinator", "num_processes", "process_id")
"""The flags that say how several processes find each other."""
PERSONAL = (
    *("out", "save_every", "device", "mesh", *OF_PROCESSES),
    *("log_dir", "wandb", "push_to_hub", "license", "language"),
)
"""The flags that change nothing of what is computed."""
POSITIVE = (
    *("seq_len", "batch_size", "grad_accum", "epochs", "max_steps", "lr", "max_bytes"),
    *("clip", "mask_rate", "validate_every", "patience", "num_processes"),
)
FINITE = ("lr", "weight_decay")
NOT_NEGATIVE = (
    *("max_overhead", "save_every", "seed", "weight_decay", "warmup", "dropout", "beta1", "beta2"),
    "process_id",
)
# JAX takes a seed as a signed integer of 64 bits.
LIMITS = {"seed": 2**63} | dict.fromkeys(("mask_rate", "warmup", "dropout", "beta1", "beta2"), 1)
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
    "lr_scheduler_type": "schedule",
    "warmup_ratio": "warmup",
    "adam_beta1": "beta1",
    "adam_beta2": "beta2",
    "max_grad_norm": "clip",
    "mlm_probability": "mask_rate",
    "eval_steps": "validate_every",
    "early_stopping_patience": "patience",
    "dataset_name": "dataset",
    "text_column_name": "text_column",
    "tokenizer_name": "tokenizer",
    "hub_model_id": "push_to_hub",
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
