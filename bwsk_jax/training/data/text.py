"""Text in three splits, and the plain places it comes from: CPython itself, or a folder of text files."""

import re
import zlib
from dataclasses import dataclass
from pathlib import Path

from bwsk_jax.errors import UserError

EMBEDDED = "embedded"
SPLIT_FILES = {"train": "train.txt", "validation": "valid.txt", "test": "test.txt"}
HELD_OUT_FRACTION = 0.1
RULE = re.compile(r"(\W)\1{3,}")
TABLE_CORNER = "+-"


class DatasetError(UserError):
    """A dataset that cannot be found or read, or has too little text to train on."""


@dataclass(frozen=True)
class Corpus:
    """The text of each split."""

    train: str
    validation: str
    test: str


def embedded_corpus() -> Corpus:
    """Return the Python language reference that ships with CPython as `pydoc_data.topics`, split by topic.

    Topics quote each other at length. If they were split as they are, text that is trained on would be held
    out as well, so each paragraph is kept only once, in the longest topic that has it. Tables and the rules
    under headings are left out: they are long runs of one character, which are far too easy to predict.
    Validation and test get about 10% of the characters each. The split depends on nothing but the topics.
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

    Raises `DatasetError`, which names all files that are missing, or the one that cannot be read.
    """
    if not folder.is_dir():
        raise DatasetError(f"--dataset {folder}: no such folder (give a folder, a Hub name or 'embedded')")
    missing = [name for name in SPLIT_FILES.values() if not (folder / name).is_file()]
    if missing:
        raise DatasetError(f"--dataset {folder}: {', '.join(missing)} missing")
    return Corpus(**{split: _read(folder / name) for split, name in SPLIT_FILES.items()})


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
