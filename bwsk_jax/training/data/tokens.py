"""From text to token ids, which are kept on disk so that each text is tokenised only once.

The cache holds a memory-mapped .npy file per text and tokenizer. Its name is a digest of the text, of the
tokenizer's whole definition and of the library's version, so that no file is ever out of date. A file is
written under a temporary name and then renamed, so that no reader sees a part of one. Where the cache cannot
be written, the tokens stay in memory.
"""

import contextlib
import hashlib
import itertools
import os
import tempfile
from pathlib import Path

import numpy as np

from bwsk_jax.training.progress import TaskProgress

FORMAT = b"int32 line by line 1"
LINES_PER_BATCH = 4096


def tokenize(tokenizer, text: str, label: str = "text") -> np.ndarray:
    """Return int32 token ids of `text`, without special tokens, line by line.

    The tokenizer gets batches of lines, and spreads each over the cores unless TOKENIZERS_PARALLELISM forbids
    it. If it takes long, a line on standard error says how far the text called `label` is.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    pieces = [np.zeros(0, np.int32)]
    with TaskProgress(f"tokenising {label}", len(lines)) as progress:
        for start in range(0, len(lines), LINES_PER_BATCH):
            batch = lines[start : start + LINES_PER_BATCH]
            encoded = tokenizer(
                batch,
                add_special_tokens=False,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            )["input_ids"]
            pieces.append(np.fromiter(itertools.chain.from_iterable(encoded), np.int32))
            progress.advance(len(batch))
    return np.concatenate(pieces)


def cache_folder() -> Path | None:
    """Return `bwsk_jax/tokens` in the user's cache folder, which is `$XDG_CACHE_HOME` or `~/.cache`.

    None for a user without a home folder, as in some containers.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bwsk_jax" / "tokens"
    except RuntimeError:
        return None


def cached_tokens(tokenizer, text: str, label: str = "text") -> np.ndarray:
    """Return what `tokenize` returns, from the cache if it is there. If not, put it there."""
    name, folder = _digest(tokenizer, text), cache_folder()
    if name is None or folder is None:
        return tokenize(tokenizer, text, label)
    file = folder / f"{name}.npy"
    cached = _read(file)
    if cached is not None:
        return cached
    tokens = tokenize(tokenizer, text, label)
    # Without room or permission the run goes on without a cache.
    with contextlib.suppress(OSError):
        _write(file, tokens)
        cached = _read(file)
    return tokens if cached is None else cached


def _digest(tokenizer, text: str) -> str | None:
    import tokenizers

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    digest = hashlib.sha256()
    parts = (
        FORMAT,
        tokenizers.__version__.encode(),
        backend.to_str().encode(),
        text.encode(errors="replace"),
    )
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def _read(file: Path) -> np.ndarray | None:
    try:
        tokens = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return tokens.view(np.ndarray) if tokens.ndim == 1 and tokens.dtype == np.int32 else None


def _write(file: Path, tokens: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=file.parent, suffix=".tmp")
    try:
        with open(handle, "wb") as stream:
            np.save(stream, tokens)
        os.replace(temporary, file)
    finally:
        Path(temporary).unlink(missing_ok=True)
