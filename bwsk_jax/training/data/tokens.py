"""From text to token ids, which are kept on disk so that each text is tokenised only once.

Text is read, tokenised and written about a megabyte at a time, so that it may be larger than memory. The
tokenizer spreads each piece over the cores. What is kept lies in a folder whose name is a digest of the text,
of the tokenizer's whole definition and of the library's version, so that nothing there is ever out of date:

- `tokens.bin`: the ids of all rows, one after the other, without special tokens;
- `documents.bin`: for each row that has tokens, the number of tokens up to its end, as int64;
- `about.json`: the type of the ids, sizes, digests, and how often each id occurs. It comes last, so a folder
  that has it is whole;
- `progress.json`: how far an unfinished tokenisation got. One that was killed goes on from there.

One process at a time writes to a folder. Others that need the same tokens wait for it. Where the cache cannot
be written, the tokens stay in memory, and a note says so.
"""

import contextlib
import copy
import hashlib
import itertools
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bwsk_jax import bert
from bwsk_jax.locking import LOCK_FILE, InUseError, locked
from bwsk_jax.training.data.cache import cache_folder, digest_of, keep_json, read_json, sha256_of
from bwsk_jax.training.data.text import Text
from bwsk_jax.training.progress import TaskProgress
from bwsk_jax.writing import remove_leftovers, replacing

FORMAT = "line by line 2"
PIECE_CHARACTERS = 1 << 20
IDS_AT_A_TIME = 1 << 22
IDS_FILE, ENDS_FILE, ABOUT_FILE, PROGRESS_FILE = "tokens.bin", "documents.bin", "about.json", "progress.json"
ENDS_TYPE = np.dtype(np.int64)


@dataclass(frozen=True)
class Tokens:
    """The token ids of a text.

    `ids` [N] and `ends` [D], the number of tokens up to each document's end, are mapped from disk where they
    can be. `counts` [V] says how often each id occurs.
    """

    ids: np.ndarray
    ends: np.ndarray
    counts: np.ndarray
    ids_digest: str
    """Another one for other ids. The next one is that of `ends`."""
    ends_digest: str

    def __len__(self) -> int:
        return len(self.ids)


class Piece(NamedTuple):
    """Some rows as tokens."""

    ids: np.ndarray
    """int32, of all rows."""
    lengths: np.ndarray
    """How many of them each row has that has any."""
    rows: int
    bytes: int


class Progress(NamedTuple):
    """How much of a text has been tokenised and written."""

    rows: int = 0
    bytes: int = 0
    tokens: int = 0
    documents: int = 0

    def after(self, piece: Piece) -> "Progress":
        """Return the progress with one more piece."""
        return Progress(
            self.rows + piece.rows,
            self.bytes + piece.bytes,
            self.tokens + len(piece.ids),
            self.documents + len(piece.lengths),
        )


def tokenize(tokenizer, rows: Iterable[str]) -> Iterator[Piece]:
    """Yield the token ids of `rows`, without special tokens, line by line, some rows at a time.

    The tokenizer gets many lines at once, and spreads them over the cores unless TOKENIZERS_PARALLELISM
    forbids it.
    """
    encode = _encoder(tokenizer)
    for batch in _batches(rows):
        lines = [
            (place, line) for place, row in enumerate(batch) for line in row.splitlines() if line.strip()
        ]
        encoded = encode([line for _, line in lines])
        lengths = np.zeros(len(batch), np.int64)
        np.add.at(lengths, [place for place, _ in lines], [len(ids) for ids in encoded])
        ids = np.fromiter(itertools.chain.from_iterable(encoded), np.int32, int(lengths.sum()))
        size = sum(len(row.encode(errors="replace")) + 1 for row in batch)
        yield Piece(ids, lengths[lengths > 0], len(batch), size)


def cached_tokens(tokenizer, text: Text, label: str = "text") -> Tokens:
    """Return the tokens of `text` from the cache if they are there. If not, put them there.

    If that takes long, a line on standard error says how far the text called `label` is. Raises what the
    rows of `text` raise.
    """
    key, folder = _key(tokenizer, text), cache_folder()
    if key is not None and folder is not None:
        try:
            return _kept(folder / "tokens" / key, tokenizer, text, label)
        except OSError as fault:
            print(
                f"note: {folder} cannot keep the tokens of the {label} ({fault.strerror}): they stay in "
                "memory",
                file=sys.stderr,
            )
    return _in_memory(tokenizer, text, label)


def trained_tokenizer(text: Text, vocab_size: int) -> Any:
    """Return `bert.train_tokenizer` of the lines of `text`. Its vocabulary is kept, as tokens are."""
    import tokenizers

    folder, key = cache_folder(), digest_of(tokenizers.__version__, str(vocab_size), text.digest)
    file = folder and folder / "vocabularies" / f"{key}.txt"
    if file is not None and file.is_file():
        return bert.load_tokenizer(file)
    tokenizer = bert.train_tokenizer(_Lines(text), vocab_size)
    if file is not None:
        words = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
        # Without room or permission it is trained again the next time.
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            with replacing(file) as beside:
                beside.write_text("\n".join(word for word, _ in words), "utf-8")
    return tokenizer


@dataclass(frozen=True)
class _Lines:
    """The lines of a text, as often as they are asked for."""

    text: Text

    def __iter__(self) -> Iterator[str]:
        return (line for row in self.text.rows() for line in row.splitlines())


def _encoder(tokenizer) -> Callable[[list[str]], list[list[int]]]:
    """Return the function from lines to ids: without offsets if the tokenizer is written in Rust."""
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        options = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
        return lambda lines: tokenizer(lines, add_special_tokens=False, **options)["input_ids"]
    backend = copy.deepcopy(tokenizer.backend_tokenizer)
    backend.no_padding()
    backend.no_truncation()
    backend.encode_special_tokens = tokenizer.split_special_tokens
    return lambda lines: [found.ids for found in backend.encode_batch_fast(lines, add_special_tokens=False)]


def _batches(rows: Iterable[str]) -> Iterator[list[str]]:
    batch, size = [], 0
    for row in rows:
        batch.append(row)
        size += len(row) + 1
        if size >= PIECE_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _key(tokenizer, text: Text) -> str | None:
    """Return what the tokens depend on, None for a tokenizer that cannot say what defines it."""
    import tokenizers

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    split = str(tokenizer.split_special_tokens)
    return digest_of(FORMAT, tokenizers.__version__, backend.to_str(), split, text.digest)


def _in_memory(tokenizer, text: Text, label: str) -> Tokens:
    pieces = []
    with TaskProgress(f"tokenising {label}", text.size) as progress:
        for piece in tokenize(tokenizer, text.rows()):
            pieces.append(piece)
            progress.advance(piece.bytes)
    ids = np.concatenate([np.zeros(0, np.int32), *(piece.ids for piece in pieces)])
    ends = np.cumsum(np.concatenate([np.zeros(0, np.int64), *(piece.lengths for piece in pieces)]))
    counts = np.bincount(ids, minlength=_largest_id(tokenizer) + 1)
    ids_digest, ends_digest = (hashlib.sha256(array.data).hexdigest() for array in (ids, ends))
    return Tokens(ids, ends, counts, ids_digest, ends_digest)


def _kept(place: Path, tokenizer, text: Text, label: str) -> Tokens:
    """Return the tokens that `place` holds, once they are there. Raises `OSError` if it cannot be written."""
    found = _finished(place)
    if found is None:
        place.mkdir(parents=True, exist_ok=True)
        with _alone(place, label):
            if _finished(place) is None:  # nor has another process finished it meanwhile
                try:
                    _write(place, tokenizer, text, label)
                    _finish(place, _largest_id(tokenizer) + 1)
                except OSError:  # the disk is full, and other files need the room
                    _clear(place)
                    raise
            found = _finished(place)
    if found is None:
        raise OSError(0, "what was written is not there")
    return found


@contextlib.contextmanager
def _alone(place: Path, label: str) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(place))
        except InUseError:
            print(
                f"waiting for another process, which is tokenising the {label}", file=sys.stderr, flush=True
            )
            stack.enter_context(locked(place, math.inf))
        yield


def _finished(place: Path) -> Tokens | None:
    """Return the tokens in `place`, None if they are not there or are damaged."""
    about = read_json(place / ABOUT_FILE)
    if about is None:
        return None
    try:
        return Tokens(
            _mapped(place / IDS_FILE, np.dtype(about["type"]), about["tokens"]),
            _mapped(place / ENDS_FILE, ENDS_TYPE, about["documents"]),
            np.array(about["counts"], np.int64),
            about["ids_digest"],
            about["ends_digest"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _mapped(file: Path, dtype: np.dtype, length: int) -> np.ndarray:
    """Return the array in `file`. Raises `ValueError` if its size is another one."""
    if file.stat().st_size != length * dtype.itemsize:
        raise ValueError(f"{file} has {file.stat().st_size} bytes, expected {length * dtype.itemsize}")
    if length == 0:  # which cannot be mapped
        return np.zeros(0, dtype)
    return np.memmap(file, dtype, "r", shape=(length,)).view(np.ndarray)


def _write(place: Path, tokenizer, text: Text, label: str) -> None:
    """Write the ids and ends of `text` to `place`, from where an earlier process was killed, if one was."""
    dtype = _id_type(tokenizer)
    done = _begun(place, dtype)
    total = max(text.size - done.bytes, 1)
    with (
        open(place / IDS_FILE, "ab") as ids,
        open(place / ENDS_FILE, "ab") as ends,
        TaskProgress(f"tokenising {label}", total) as progress,
    ):
        ids.truncate(done.tokens * dtype.itemsize)
        ends.truncate(done.documents * ENDS_TYPE.itemsize)
        for piece in tokenize(tokenizer, itertools.islice(text.rows(), done.rows, None)):
            ids.write(piece.ids.astype(dtype).data)
            ends.write((done.tokens + np.cumsum(piece.lengths)).data)
            ids.flush()
            ends.flush()
            done = done.after(piece)
            keep_json(place / PROGRESS_FILE, done._asdict() | {"type": dtype.name})
            progress.advance(piece.bytes)
        os.fsync(ids.fileno())
        os.fsync(ends.fileno())


def _begun(place: Path, dtype: np.dtype) -> Progress:
    """Return how far `place` is. What is left of damaged work is removed, for others may have it mapped."""
    known = read_json(place / PROGRESS_FILE) or {}
    remove_leftovers(place)
    with contextlib.suppress(OSError, TypeError):
        kind = known.pop("type", None)
        done = Progress(**known)
        whole = (place / IDS_FILE).stat().st_size >= done.tokens * dtype.itemsize
        whole &= (place / ENDS_FILE).stat().st_size >= done.documents * ENDS_TYPE.itemsize
        if whole and kind == dtype.name and not (place / ABOUT_FILE).exists():
            return done
    _clear(place)
    return Progress()


def _clear(place: Path) -> None:
    for file in place.iterdir():
        if file.name != LOCK_FILE:
            shutil.rmtree(file) if file.is_dir() else file.unlink()


def _finish(place: Path, vocabulary: int) -> None:
    """Say in `place` that all is written, and what."""
    known = read_json(place / PROGRESS_FILE) or {"type": "int32"} | Progress()._asdict()
    dtype = np.dtype(known["type"])
    counts, digest = np.zeros(vocabulary, np.int64), hashlib.sha256()
    with open(place / IDS_FILE, "rb") as stream:  # mapped, all of it would count as this process's memory
        while len(ids := np.fromfile(stream, dtype, IDS_AT_A_TIME)):
            counts += np.bincount(ids, minlength=vocabulary)
            digest.update(ids.astype(np.int32).data)
    about = {name: known[name] for name in ("type", "tokens", "documents")}
    about |= {
        "ids_digest": digest.hexdigest(),
        "ends_digest": sha256_of(place / ENDS_FILE),
        "counts": counts.tolist(),
    }
    keep_json(place / ABOUT_FILE, about)
    (place / PROGRESS_FILE).unlink(missing_ok=True)


def _largest_id(tokenizer) -> int:
    return max(tokenizer.get_vocab().values())


def _id_type(tokenizer) -> np.dtype:
    """Return the type that the ids are kept in: half as wide if the vocabulary is that small."""
    return np.dtype(np.uint16 if _largest_id(tokenizer) < 1 << 16 else np.int32)
