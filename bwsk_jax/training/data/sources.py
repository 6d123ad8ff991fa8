"""Where a run's text, tokenizer and first parameters are: defaults, and names turned into local paths.

A real run fetches from the Hub what is not on this machine (`fetch_sources`). A dry run uses what is there
and asks the Hub nothing (`sources_at_hand`).
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from bwsk_jax.errors import UserError
from bwsk_jax.training.data.corpus import load_corpus, on_the_hub
from bwsk_jax.training.data.hub import (
    CARD_FILE,
    MODEL_FILES,
    SENTENCE_PATTERNS,
    TOKENIZER_FILES,
    HubError,
    cached_folder,
    fetch,
    is_hub_name,
)
from bwsk_jax.training.data.text import EMBEDDED, Corpus
from bwsk_jax.training.flags import Flags
from bwsk_jax.variants import Variant

DEFAULT_DATASET = "Salesforce/wikitext:wikitext-2-raw-v1"
DEFAULT_MODEL = "google-bert/bert-base-uncased"
TRAINED = "trained"

ADAPTER_FILE = "adapter_config.json"
NO_MODEL = "no such folder"
NO_TOKENIZER = "no such folder or vocab.txt"
WAYS_OUT = (
    "give a folder, or fill the cache where there is a network (hf download {name}) "
    "and bring it here as HF_HOME"
)


class SourceError(UserError):
    """A tokenizer or a model that is not on this machine and that the Hub does not give."""


@dataclass(frozen=True)
class Sources:
    """Where the model and the tokenizer of a run are, and its text."""

    init: Path | None
    """None for parameters from scratch, and where only the Hub has the model."""
    tokenizer: Path | None
    """None for a tokenizer that is to be trained, and where only the Hub has it."""
    corpus: Corpus | None
    """None where only the Hub has it."""


def with_default_sources(flags: Flags, variant: Variant) -> Flags:
    """Return `flags` with dataset, tokenizer and init filled in. The defaults of `demo` need no network.

    >>> from bwsk_jax.variants import find_variant
    >>> flags = with_default_sources(Flags(preset="mini"), find_variant("finetune-reversible"))
    >>> flags.dataset, flags.init, flags.tokenizer == flags.init
    ('Salesforce/wikitext:wikitext-2-raw-v1', 'google-bert/bert-base-uncased', True)
    """
    demo = flags.preset == "demo"
    init = flags.init or (DEFAULT_MODEL if variant.experiment == "finetune" else None)
    return dataclasses.replace(
        flags,
        dataset=flags.dataset or (EMBEDDED if demo else DEFAULT_DATASET),
        init=init,
        tokenizer=flags.tokenizer or init or (TRAINED if demo else DEFAULT_MODEL),
    )


def fetch_sources(flags: Flags) -> Sources:
    """Find what `flags`, with their defaults filled in, name; fetch from the Hub what is not on this machine.

    Raises `SourceError` or `DatasetError`.
    """
    assert flags.tokenizer is not None and flags.dataset is not None
    init = None if flags.init is None else model_folder(flags.init)
    tokenizer = init if flags.tokenizer == flags.init else tokenizer_path(flags.tokenizer)
    return Sources(init, tokenizer, load_corpus(flags.dataset, flags.text_column))


def sources_at_hand(flags: Flags) -> Sources:
    """Find as much of what `flags`, with their defaults filled in, name as is possible without the Hub.

    A model needs its config.json only. The default model may be missing, because its sizes are known.
    Raises `SourceError` or `DatasetError`.
    """
    assert flags.tokenizer is not None and flags.dataset is not None
    init = None if flags.init is None else _model_at_hand(flags.init)
    tokenizer = None if flags.tokenizer == TRAINED else _tokenizer_at_hand(flags.tokenizer)
    hub = on_the_hub(flags.dataset)
    return Sources(init, tokenizer, None if hub else load_corpus(flags.dataset, flags.text_column))


def model_folder(init: str, flag: str = "--init") -> Path:
    """Return the folder of the model that `flag` names, with its weights. Raises `SourceError`."""
    folder = _local(
        flag, init, (*MODEL_FILES, ADAPTER_FILE, *TOKENIZER_FILES, CARD_FILE, *SENTENCE_PATTERNS), NO_MODEL
    )
    _check_model(flag, init, folder)
    if not Path(init).exists() and not any(folder.glob("model*.safetensors")):
        raise SourceError(
            f"{flag} {init}: no safetensors weights in {folder}, and pickles are never fetched or opened. If "
            f"you trust it, convert it with transformers: AutoModelForMaskedLM.from_pretrained({init!r})"
            ".save_pretrained(FOLDER)"
        )
    return folder


def tokenizer_path(tokenizer: str) -> Path | None:
    """Return the folder or file that `--tokenizer` names, None for one that is to be trained.

    Raises `SourceError`.
    """
    if tokenizer == TRAINED:
        return None
    return _local("--tokenizer", tokenizer, TOKENIZER_FILES, NO_TOKENIZER)


def _model_at_hand(init: str) -> Path | None:
    folder = _here("--init", init, NO_MODEL) or cached_folder(init, MODEL_FILES[:1])
    if folder is None and init != DEFAULT_MODEL:
        raise SourceError(
            f"--init {init}: no such folder, not in the Hub's cache, and a dry run does not ask the Hub; "
            f"{WAYS_OUT.format(name=init)}"
        )
    if folder is not None:
        _check_model("--init", init, folder)
    return folder


def _check_model(flag: str, init: str, folder: Path) -> None:
    """Raise `SourceError` if `folder` is a file, or holds no whole model but what LoRA changes of one."""
    if folder.is_file():
        raise SourceError(f"{flag} {init} is a file: give the folder that holds it and its config.json")
    if (folder / ADAPTER_FILE).is_file() and not any(folder.glob("model*.safetensors")):
        raise SourceError(
            f"{flag} {init} holds a LoRA adapter and no whole model: merge it into its base with peft, "
            "AutoPeftModelForMaskedLM.from_pretrained(...).merge_and_unload().save_pretrained(FOLDER), and "
            "give FOLDER"
        )


def _tokenizer_at_hand(tokenizer: str) -> Path | None:
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
    """Return `name` as a path if it is one, and None if it may be a name of the Hub.

    Raises `SourceError` for a path that cannot be read, and for what is spelt like neither.
    """
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
