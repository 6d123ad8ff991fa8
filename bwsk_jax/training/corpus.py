"""Text in three splits: from a folder, from the Hub, or from what every CPython carries."""

import re
import zlib
from dataclasses import dataclass
from pathlib import Path

from bwsk_jax.training.hub import is_hub_name

EMBEDDED = "embedded"
SPLIT_FILES = {"train": "train.txt", "validation": "valid.txt", "test": "test.txt"}
HELD_OUT_FRACTION = 0.1
RULE = re.compile(r"(\W)\1{3,}")
TABLE_CORNER = "+-"


class DatasetError(ValueError):
    """A data set that is not there or cannot be trained on."""


@dataclass(frozen=True)
class Corpus:
    """The text of each split."""

    train: str
    validation: str
    test: str


def embedded_corpus() -> Corpus:
    """Return the Python language reference that ships with CPython as `pydoc_data.topics`, split by topic.

    Topics quote each other at length, so that a plain split by topic would hold out text that is trained on.
    Each paragraph is therefore kept once, in the longest topic that has it. Tables and the rules under
    headings are left out: long runs of one character, they are no English and far too easy to predict.
    About 10% of the characters go to validation and to test each; the split depends on nothing but the
    topics.
    """
    from pydoc_data.topics import topics

    seen = set()
    unique = {}
    for name in sorted(topics, key=lambda name: (-len(topics[name]), name)):
        kept = []
        for paragraph in topics[name].split("\n\n"):
            words = " ".join(word for word in paragraph.split() if not RULE.fullmatch(word))
            if words and not words.startswith(TABLE_CORNER) and words not in seen:
                seen.add(words)
                kept.append(words)
        if kept:
            unique[name] = "\n".join(kept)

    room = HELD_OUT_FRACTION * sum(map(len, unique.values()))
    splits = {"validation": [], "test": [], "train": []}
    free = {"validation": room, "test": room, "train": float("inf")}
    for name in sorted(unique, key=lambda name: zlib.crc32(name.encode())):
        split = next(split for split in splits if len(unique[name]) <= free[split])
        splits[split].append(unique[name])
        free[split] -= len(unique[name])
    return Corpus(**{split: "\n".join(parts) for split, parts in splits.items()})


def folder_corpus(folder: Path) -> Corpus:
    """Return the text of `train.txt`, `valid.txt` and `test.txt` in `folder`.

    Raises `DatasetError` that names everything that is missing, or the file that cannot be read.
    """
    if not folder.is_dir():
        raise DatasetError(f"--dataset {folder}: no such folder (give a folder, a Hub name or 'embedded')")
    missing = [name for name in SPLIT_FILES.values() if not (folder / name).is_file()]
    if missing:
        raise DatasetError(f"--dataset {folder}: {', '.join(missing)} missing")
    return Corpus(**{split: _read(folder / name) for split, name in SPLIT_FILES.items()})


def load_corpus(dataset: str) -> Corpus:
    """Return the corpus that `--dataset` names: `embedded`, a folder, or NAME or NAME:CONFIG on the Hub.

    A folder holds text files, or what `datasets` reads: then FOLDER:CONFIG is possible, too.

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
    """Whether `--dataset` names something that is not here but may be on the Hub or in its cache.

    >>> on_the_hub("owner/name:config"), on_the_hub("embedded"), on_the_hub("./texts")
    (True, False, False)
    """
    name, _ = _name_and_config(dataset)
    return dataset != EMBEDDED and not Path(name).exists() and is_hub_name(name)


def _name_and_config(dataset: str) -> tuple[str, str | None]:
    if ":" not in dataset or Path(dataset).exists():
        return dataset, None
    name, _, config = dataset.rpartition(":")
    return name, config


def _load(dataset: str) -> Corpus:
    if dataset == EMBEDDED:
        return embedded_corpus()
    name, config = _name_and_config(dataset)
    folder = Path(name)
    if folder.is_file():
        raise DatasetError(f"--dataset {name} is a file: give the folder that holds the splits")
    from bwsk_jax.training.datasets_corpus import has_layout, hub_corpus, layout_corpus

    if not folder.is_dir():
        return hub_corpus(name, config)
    texts = any((folder / file).exists() for file in SPLIT_FILES.values())
    if config is not None or (not texts and has_layout(folder)):
        return layout_corpus(folder, config)
    return folder_corpus(folder)


def _read(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except OSError as error:
        raise DatasetError(f"--dataset: {file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DatasetError(
            f"--dataset: {file} is not UTF-8: byte {error.object[error.start]:#04x} in line {line}; "
            "convert it, for example with iconv"
        ) from None
