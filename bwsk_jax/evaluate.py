"""Measure a Hugging Face BERT or sibling: `python -m bwsk_jax.evaluate FOLDER_OR_HUB_NAME --dataset NAME`."""

import dataclasses
import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from bwsk_jax import usage
from bwsk_jax.errors import mistakes_in_one_line
from bwsk_jax.training.flags import CHOICES, DTYPES, FlagError, nearest, one_of, shown, value_fault

METRICS = {"sampled": ("sampled",), "exact": ("exact",), "both": ("sampled", "exact")}
OWN_CHOICES = {"metric": tuple(METRICS), "split": ("test", "validation")}


@dataclass(frozen=True)
class Options:
    """Measure a BERT, RoBERTa or DistilBERT by its pseudo-perplexity on a text.

    Prints JSON. The figures are those of a training run's results, and come out the same with the run's own
    --dataset and --seq-len.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER_OR_HUB_NAME")]
    """A Hugging Face BERT, RoBERTa or DistilBERT with a masked-LM head, such as runs/scratch-reversible."""
    dataset: Annotated[str | None, shown("STR", "none; it has to be given")] = None
    """'embedded', NAME or NAME:CONFIG on the Hub, or a folder, as in training."""
    text_column: str = "text"
    """The column of --dataset that holds the text, if it has columns."""
    windows: Annotated[str, one_of(CHOICES["windows"])] = "packed"
    """packed, or documents: with [CLS] before and [SEP] after each row of --dataset, as in training."""
    split: Annotated[str, one_of(OWN_CHOICES["split"])] = "test"
    """Which part of the text."""
    metric: Annotated[str, one_of(OWN_CHOICES["metric"])] = "sampled"
    """sampled: 15% of the tokens masked at once, at fixed positions. exact: every token masked one at a
    time, about seq_len / 2 times as long."""
    seq_len: Annotated[int | None, shown("INT", "as many as the model takes, at most 512")] = None
    """Tokens per window."""
    batch_size: int = 16
    """Windows at a time."""
    tokenizer: Annotated[str | None, shown("STR", "the model's")] = None
    """A folder, a vocab.txt or a Hub name."""
    precision: Annotated[str, one_of(CHOICES["precision"])] = "float32"
    """What the model computes in."""
    device: Annotated[str, one_of(CHOICES["device"])] = "auto"
    """Where to compute."""


def main(args: Sequence[str] | None = None) -> None:
    """Parse `args` (the command line's by default), measure, and print the result as JSON.

    A mistake ends in one line on standard error and exit status 2.
    """
    with mistakes_in_one_line():
        options = usage.parse(Options, args, prog="python -m bwsk_jax.evaluate")
        if options.dataset is None:
            raise FlagError("--dataset is missing: give 'embedded', a Hub name or a folder")
        for field in dataclasses.fields(options):
            _check(field.name, getattr(options, field.name))
        # Not to be told that there is no PyTorch: none is needed.
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
        print(json.dumps(evaluate(options), indent=2))


def evaluate(options: Options) -> dict[str, Any]:
    """Return what was measured and how: the perplexities have the names that training gives them.

    If it takes long, a line on standard error says how far it is. Raises `UserError`.
    """
    import jax.numpy as jnp

    from bwsk_jax.training.data.corpus import load_corpus
    from bwsk_jax.training.data.pretrained import load_masked_lm
    from bwsk_jax.training.data.tokens import cached_tokens
    from bwsk_jax.training.data.windows import around_documents, stream_of
    from bwsk_jax.training.device import select_device
    from bwsk_jax.training.report.metrics import METRIC_NAMES, measure
    from bwsk_jax.training.report.results import finite
    from bwsk_jax.training.step.evaluation import held_out_sets, unmasked_ids

    select_device(options.device)
    model = load_masked_lm(options.model, options.tokenizer)
    longest = model.config.longest_input
    seq_len = options.seq_len or min(longest, 512)
    if seq_len > longest:
        raise FlagError(f"--seq-len {seq_len} is beyond the model's {longest} positions")
    assert options.dataset is not None  # `main` has asked for it
    corpus = load_corpus(options.dataset, options.text_column)
    for note in corpus.notes:
        print(f"note: {note}", file=sys.stderr)
    text = getattr(corpus, options.split)
    tokens = cached_tokens(model.tokenizer, text, f"{options.split} text")
    dtype = getattr(jnp, DTYPES[options.precision])
    stream = stream_of(tokens, around_documents(options.windows, model.tokenizer, seq_len, options.model))
    sets = held_out_sets(stream, seq_len, options.split)
    how = {"batch_size": options.batch_size, "dtype": dtype, "unmasked": unmasked_ids(stream)}
    perplexities = {
        METRIC_NAMES[options.windows][metric]: finite(
            measure(model, getattr(sets, metric), label=f"{metric} {options.split}", **how)
        )
        for metric in METRICS[options.metric]
    }
    asked = {name: getattr(options, name) for name in ("model", "dataset", "split", "windows", "precision")}
    return asked | {"seq_len": seq_len, "tokens": len(tokens)} | perplexities


def _check(name: str, value: Any) -> None:
    flag = "the model" if name == "model" else f"--{name.replace('_', '-')}"
    choices = OWN_CHOICES.get(name)
    if choices is not None and value not in choices:
        raise FlagError(
            f"{flag} {value} is not one of {', '.join(choices)}: did you mean {nearest(value, choices)!r}?"
        )
    if fault := value_fault("init" if name == "model" else name, value):
        raise FlagError(f"{flag} {shlex.quote(str(value))} {fault}")


if __name__ == "__main__":
    main()
