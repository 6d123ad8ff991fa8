"""Which corpus a name means: the text of CPython, a folder, or a dataset of the Hugging Face Hub."""

from pathlib import Path

from bwsk_jax.training.data.hub import is_hub_name
from bwsk_jax.training.data.hub_datasets import has_layout, hub_corpus, layout_corpus
from bwsk_jax.training.data.text import (
    EMBEDDED,
    SPLIT_FILES,
    Corpus,
    DatasetError,
    embedded_corpus,
    folder_corpus,
)


def load_corpus(dataset: str) -> Corpus:
    """Return the corpus that `--dataset` names: `embedded`, a folder, or NAME or NAME:CONFIG on the Hub.

    A folder holds either text files or files that the `datasets` library reads; the latter may also be given
    as FOLDER:CONFIG.

    Raises `DatasetError`, also for a split without text.
    """
    try:
        corpus = _load(dataset)
    except OSError as error:
        raise DatasetError(f"--dataset {dataset} cannot be read: {error.strerror or error}") from None
    for split in SPLIT_FILES:
        if not getattr(corpus, split).strip():
            raise DatasetError(f"--dataset {dataset}: its {split} split is empty")
    return corpus


def on_the_hub(dataset: str) -> bool:
    """Whether `--dataset` names nothing on this machine, but what may be a dataset of the Hub.

    >>> on_the_hub("owner/name:config"), on_the_hub("embedded"), on_the_hub("./texts")
    (True, False, False)
    """
    name, _ = name_and_config(dataset)
    return dataset != EMBEDDED and not Path(name).exists() and is_hub_name(name)


def name_and_config(dataset: str) -> tuple[str, str | None]:
    """Return what stands before and after the colon in `--dataset`, if a configuration is named."""
    if ":" not in dataset or Path(dataset).exists():
        return dataset, None
    name, _, config = dataset.rpartition(":")
    return name, config


def _load(dataset: str) -> Corpus:
    if dataset == EMBEDDED:
        return embedded_corpus()
    name, config = name_and_config(dataset)
    folder = Path(name)
    if folder.is_file():
        raise DatasetError(f"--dataset {name} is a file: give the folder that holds the splits")
    if not folder.is_dir():
        return hub_corpus(name, config)
    texts = any((folder / file).exists() for file in SPLIT_FILES.values())
    if config is not None or (not texts and has_layout(folder)):
        return layout_corpus(folder, config)
    return folder_corpus(folder)
