"""Where text, tokenizer and first parameters come from: defaults, and names turned into local paths."""

import dataclasses
from pathlib import Path

from bwsk_jax.training.corpus import EMBEDDED
from bwsk_jax.training.hub import MODEL_FILES, TOKENIZER_FILES, HubError, cached_folder, fetch, is_hub_name
from bwsk_jax.training.options import Options
from bwsk_jax.variants import Variant

DEFAULT_DATASET = "Salesforce/wikitext:wikitext-2-raw-v1"
DEFAULT_MODEL = "google-bert/bert-base-uncased"
TRAINED = "trained"

NO_MODEL = "no such folder"
NO_TOKENIZER = "no such folder or vocab.txt"
WAYS_OUT = (
    "give a folder, or fill the cache where there is a network (hf download {name}) "
    "and bring it here as HF_HOME"
)


class SourceError(ValueError):
    """A tokenizer or a model that is neither here nor to be had from the Hub."""


def with_default_sources(options: Options, variant: Variant) -> Options:
    """Return `options` with dataset, tokenizer and init filled in. The `demo` preset needs no network.

    >>> from bwsk_jax.variants import find_variant
    >>> options = with_default_sources(Options(preset="mini"), find_variant("finetune-reversible"))
    >>> options.dataset, options.init, options.tokenizer == options.init
    ('Salesforce/wikitext:wikitext-2-raw-v1', 'google-bert/bert-base-uncased', True)
    """
    demo = options.preset == "demo"
    init = options.init or (DEFAULT_MODEL if variant.experiment == "finetune" else None)
    return dataclasses.replace(
        options,
        dataset=options.dataset or (EMBEDDED if demo else DEFAULT_DATASET),
        init=init,
        tokenizer=options.tokenizer or init or (TRAINED if demo else DEFAULT_MODEL),
    )


def model_folder(init: str) -> Path:
    """Return the folder of the model, and of its tokenizer, that `--init` names. Raises `SourceError`."""
    folder = _local("--init", init, MODEL_FILES + TOKENIZER_FILES, NO_MODEL)
    if not Path(init).exists() and not any(folder.glob("model*.safetensors")):
        raise SourceError(
            f"--init {init}: no safetensors weights in {folder}, and pickles are never fetched or opened. If "
            f"you trust it, convert it with transformers: BertForMaskedLM.from_pretrained({init!r})"
            ".save_pretrained(FOLDER)"
        )
    return folder


def tokenizer_path(tokenizer: str) -> Path | None:
    """Return the folder or file that `--tokenizer` names, None for one to be trained.

    Raises `SourceError`.
    """
    if tokenizer == TRAINED:
        return None
    return _local("--tokenizer", tokenizer, TOKENIZER_FILES, NO_TOKENIZER)


def cached_model_config(init: str) -> Path | None:
    """Return a folder with the config.json of `--init` without asking the Hub; None where only it has one.

    Raises `SourceError`.
    """
    return _here("--init", init, NO_MODEL) or cached_folder(init, MODEL_FILES[:1])


def cached_tokenizer(tokenizer: str) -> Path | None:
    """Return where `--tokenizer`, not one to be trained, is without asking the Hub; None where only it is.

    Raises `SourceError`.
    """
    return _here("--tokenizer", tokenizer, NO_TOKENIZER) or cached_folder(tokenizer, TOKENIZER_FILES)


def _local(flag: str, name: str, files: tuple[str, ...], absent: str) -> Path:
    here = _here(flag, name, absent)
    if here is not None:
        return here
    try:
        return fetch(name, files)
    except HubError as error:
        instead = f"give a vocab.txt or {TRAINED!r}, " if flag == "--tokenizer" else ""
        raise SourceError(f"{flag} {name}: {error}; {instead}{WAYS_OUT.format(name=name)}") from error


def _here(flag: str, name: str, absent: str) -> Path | None:
    """Return the path that `name` is, None if it is a name of the Hub."""
    path = Path(name)
    try:
        if path.exists():
            next(path.iterdir(), None) if path.is_dir() else path.open().close()
            return path
    except OSError as error:
        raise SourceError(f"{flag} {name} cannot be read: {error.strerror or error}") from None
    if not is_hub_name(name):
        raise SourceError(f"{flag} {name}: {absent}")
    return None
