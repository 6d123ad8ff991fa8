"""Which corpus a name means: the text of CPython, a folder, or a dataset of the Hugging Face Hub."""

from pathlib import Path

from bwsk_jax.training.data.held_out import SPLITS, corpus_of
from bwsk_jax.training.data.hub import is_hub_name
from bwsk_jax.training.data.hub_datasets import has_layout, hub_texts, layout_texts
from bwsk_jax.training.data.text import (
    EMBEDDED,
    SPLIT_FILES,
    Corpus,
    DatasetError,
    Text,
    embedded_corpus,
    folder_texts,
)

COLUMN = "text"


def load_corpus(dataset: str, column: str = COLUMN) -> Corpus:
    """Return the corpus that `--dataset` names: `embedded`, a folder, or NAME or NAME:CONFIG on the Hub.

    A folder holds text files, or files that the `datasets` library reads; the latter may also be given as
    FOLDER:CONFIG. Of files with columns the text is in `column`. Splits for validation and test that are
    missing are taken off the training split.

    Raises `DatasetError`, also for a split without text.
    """
    try:
        corpus = embedded_corpus() if dataset == EMBEDDED else corpus_of(dataset, _splits(dataset, column))
        for split in SPLITS:
            getattr(corpus, split).check()
    except OSError as error:
        raise DatasetError(f"--dataset {dataset} cannot be read: {error.strerror or error}") from None
    if column != COLUMN and _is_plain(dataset):
        raise DatasetError(f"--text-column {column}: --dataset {dataset} is plain text, without columns")
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


def _is_plain(dataset: str) -> bool:
    """Whether it is the embedded text, or a folder with any of the three files of text."""
    return dataset == EMBEDDED or any((Path(dataset) / file).exists() for file in SPLIT_FILES.values())


def _splits(dataset: str, column: str) -> dict[str, Text]:
    name, config = name_and_config(dataset)
    folder = Path(name)
    if folder.is_file():
        raise DatasetError(f"--dataset {name} is a file: give the folder that holds the splits")
    if not folder.is_dir():
        return hub_texts(name, config, column)
    if _is_plain(dataset):
        return folder_texts(folder)
    if config is None and not has_layout(folder):
        raise DatasetError(
            f"--dataset {folder}: no train.txt there, and no .txt, .jsonl, .csv or .parquet files"
        )
    return layout_texts(folder, config, column)
