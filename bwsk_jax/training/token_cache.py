"""Token ids kept on disk, so that a text is tokenised once: one .npy per text and tokenizer, memory-mapped.

A file's name is a digest of the text, the tokenizer's whole definition and the library's version, so that
nothing is ever out of date. Files are written beside their final names and then moved there: whoever reads
one reads it whole. The cache is a convenience: where it cannot be written, the tokens stay in memory.
"""

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

import numpy as np

from bwsk_jax.training.windows import tokenize

FORMAT = b"int32 line by line 1"


def cache_folder() -> Path | None:
    """Return `bwsk_jax/tokens` in the user's cache folder: `$XDG_CACHE_HOME`, or `~/.cache`.

    None for a user without a home, as in some containers.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bwsk_jax" / "tokens"
    except RuntimeError:
        return None


def cached_tokens(tokenizer, text: str, label: str = "text") -> np.ndarray:
    """Return `tokenize(tokenizer, text, label)`, from the cache where it is there, and put it there."""
    name, folder = _digest(tokenizer, text), cache_folder()
    if name is None or folder is None:
        return tokenize(tokenizer, text, label)
    file = folder / f"{name}.npy"
    tokens = _read(file)
    if tokens is None:
        tokens = tokenize(tokenizer, text, label)
        # No room, no permission: the run goes on without a cache.
        with contextlib.suppress(OSError):
            _write(file, tokens)
            tokens = _read(file)
    return tokens


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
