"""The command line's flags."""

from dataclasses import dataclass
from typing import Annotated

import tyro

CHOICES = {
    "preset": ("demo", "mini", "base"),
    "precision": ("float32", "bf16", "fp16"),
    "masking": ("mask", "bert"),
    "eval_metric": ("sampled", "exact"),
    "device": ("auto", "cpu", "gpu"),
}


def _one_of(choices: tuple[str, ...]):
    return tyro.conf.arg(metavar=f"{{{','.join(choices)}}}")


@dataclass(frozen=True)
class Options:
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
    save_every: float = 60.0
    """Seconds of work that may be lost when the process is killed; the same command resumes."""
    seed: int = 0
    """Of initialisation, order of windows, masks and dropout."""
    device: Annotated[str, _one_of(CHOICES["device"])] = "auto"
    """Where to compute. auto is JAX's own choice: a GPU where it finds one."""
    log_dir: str | None = None
    """Folder that receives TensorBoard events, in VARIANT/."""
