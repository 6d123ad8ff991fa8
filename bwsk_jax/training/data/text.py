"""Text in three splits, and the plain places it comes from: CPython itself, or files of text.

A split consists of rows, which are read anew, from the first on, each time that they are asked for. So text
may be larger than memory. A row is a document; in a file of plain text it is a line.
"""

import codecs
import contextlib
import hashlib
import re
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from bwsk_jax.errors import UserError
from bwsk_jax.training.data.cache import PIECE, digest_of, file_digest, sha256_of, stamp_of
from bwsk_jax.training.progress import TaskProgress

EMBEDDED = "embedded"
SPLIT_FILES = {"train": "train.txt", "validation": "valid.txt", "test": "test.txt"}
HELD_OUT_FRACTION = 0.1
Rows: TypeAlias = Generator[str, None, None]
RULE = re.compile(r"(\W)\1{3,}")
TABLE_CORNER = "+-"


class DatasetError(UserError):
    """A dataset that cannot be found or read, or has too little text to train on."""


@dataclass(frozen=True)
class Text:
    """The text of a split, as rows that are read when they are asked for.

    >>> text = Text("a text", "its digest", 11, lambda: (row for row in ("one row", " ", "two")))
    >>> list(text.rows()), list(text.rows())
    (['one row', 'two'], ['one row', 'two'])
    """

    name: str
    """What messages call it."""
    digest: str
    """Another one for other rows."""
    size: int
    """The bytes of the text, or about as many."""
    read: Callable[[], Rows]

    def rows(self) -> Rows:
        """Yield the rows that are not blank. Raises `DatasetError` where they cannot be read."""
        return (row for row in self.read() if row and not row.isspace())

    def check(self) -> None:
        """Raise `DatasetError` if there are no rows. Only the first one is read."""
        with contextlib.closing(self.read()) as rows:
            if all(not row or row.isspace() for row in rows):
                raise DatasetError(f"{self.name} is empty")


@dataclass(frozen=True)
class Corpus:
    """The text of each split."""

    train: Text
    validation: Text
    test: Text
    notes: tuple[str, ...] = ()
    """What the user should know of the splits, a line each."""


def embedded_corpus() -> Corpus:
    """Return the Python language reference that ships with CPython as `pydoc_data.topics`, split by topic.

    Topics quote each other at length. If they were split as they are, text that is trained on would be held
    out as well, so each paragraph is kept only once, in the longest topic that has it. Tables and the rules
    under headings are left out: they are long runs of one character, which are far too easy to predict.
    Validation and test get about 10% of the characters each. The split depends on nothing but the topics,
    each of which is a row.
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
    splits: dict[str, list[str]] = {"validation": [], "test": [], "train": []}
    free = {"validation": room, "test": room, "train": float("inf")}
    for name in sorted(unique, key=lambda name: zlib.crc32(name.encode())):
        split = next(split for split in splits if len(unique[name]) <= free[split])
        splits[split].append(unique[name])
        free[split] -= len(unique[name])
    train, validation, test = (_in_memory(split, splits[split]) for split in SPLIT_FILES)
    return Corpus(train, validation, test)


def _in_memory(split: str, rows: list[str]) -> Text:
    size = sum(len(row.encode()) for row in rows)
    return Text(
        f"--dataset embedded: its {split} split", digest_of(*rows), size, lambda: (row for row in rows)
    )


def folder_texts(folder: Path) -> dict[str, Text]:
    """Return the splits of those of `train.txt`, `valid.txt` and `test.txt` that are in `folder`.

    Raises `DatasetError` without `train.txt`, and for a file that cannot be read or is not UTF-8.
    """
    if not (folder / SPLIT_FILES["train"]).is_file():
        raise DatasetError(f"--dataset {folder}: train.txt missing")
    files = {split: folder / name for split, name in SPLIT_FILES.items() if (folder / name).is_file()}
    return {
        split: text_of_lines(f"--dataset {folder}: its {split} split", [file])
        for split, file in files.items()
    }


def text_of_lines(name: str, files: Sequence[Path]) -> Text:
    """Return files of plain UTF-8 as a text whose rows are their lines, called `name` in messages.

    All of a file is read once, unless it is known, so that a mistake in it shows before anything else is
    done. Raises `DatasetError`.
    """
    return text_of_files(name, files, "lines", lambda: _lines(files), read=_checked_digest)


def text_of_files(
    name: str,
    files: Sequence[Path],
    kind: str,
    rows: Callable[[], Rows],
    *,
    read: Callable[[Path], str] = sha256_of,
    size: int | None = None,
) -> Text:
    """Return the text whose `rows` follow from `files` and `kind`, which says how they are read.

    `read` returns a digest of a file's content. `size` is that of the files, unless it is given.
    Raises `DatasetError`, also later, from the rows, if a file is changed while they are read.
    """
    stamps, digests = {}, []
    for file in files:
        with _read_faults(file):
            stamps[file] = stamp_of(file)
            digests.append(file_digest(file, read))

    def unchanged_rows() -> Rows:
        yield from rows()
        for file, stamp in stamps.items():
            with _read_faults(file):
                if stamp_of(file) != stamp:
                    raise DatasetError(f"--dataset: {file} was changed meanwhile: give the command again")

    total = sum(stamp.size for stamp in stamps.values()) if size is None else size
    return Text(name, digest_of(kind, *digests), total, unchanged_rows)


def _lines(files: Sequence[Path]) -> Rows:
    for file in files:
        with _read_faults(file), file.open(encoding="utf-8") as stream:
            for line in stream:
                yield from line.splitlines()


def _checked_digest(file: Path) -> str:
    """Return the digest of a file. Raises `DatasetError` where it is not UTF-8."""
    digest, decoder, lines = hashlib.sha256(), codecs.getincrementaldecoder("utf-8")(), 0
    with file.open("rb") as stream, TaskProgress(f"reading {file.name}", stamp_of(file).size) as progress:
        piece = None
        while piece != b"":
            piece = stream.read(PIECE)
            try:
                decoder.decode(piece, final=not piece)
            except UnicodeDecodeError as error:
                line = lines + error.object[: error.start].count(b"\n") + 1
                raise DatasetError(
                    f"--dataset: {file} is not UTF-8: byte {error.object[error.start]:#04x} in line {line}; "
                    "convert it, for example with iconv"
                ) from None
            digest.update(piece)
            lines += piece.count(b"\n")
            progress.advance(len(piece))
    return digest.hexdigest()


@contextlib.contextmanager
def _read_faults(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DatasetError(f"--dataset: {file} cannot be read: {error.strerror}") from None
