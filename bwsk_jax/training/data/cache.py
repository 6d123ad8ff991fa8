"""What is kept between runs in the user's cache folder, and digests of files that are not read again.

A file whose size and modification time are those of the last reading has the digest that was kept then. A
file that was changed in the last seconds could be changed once more without either of them showing it, so
its digest is not kept.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from bwsk_jax.writing import replacing

SETTLED_SECONDS = 2
PIECE = 1 << 20


class Stamp(NamedTuple):
    """What shows without reading a file that it was changed."""

    size: int
    mtime_ns: int


def cache_folder() -> Path | None:
    """Return `bwsk_jax` in the user's cache folder, which is `$XDG_CACHE_HOME` or `~/.cache`.

    None for a user without a home folder, as in some containers.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bwsk_jax"
    except RuntimeError:
        return None


def stamp_of(file: Path) -> Stamp:
    """Return the stamp of `file` as it is now."""
    status = file.stat()
    return Stamp(status.st_size, status.st_mtime_ns)


def digest_of(*parts: str | bytes) -> str:
    """Return a digest that tells apart any two sequences of parts.

    >>> digest_of("a", "bc") == digest_of("ab", "c")
    False
    """
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode(errors="replace") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of the content of `file`."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def file_digest(file: Path, read: Callable[[Path], str] = sha256_of) -> str:
    """Return a digest of the content of `file`: `read` finds it, unless it is known from an earlier reading.

    All that `read` raises is passed on.
    """
    folder, stamp = cache_folder(), stamp_of(file)
    record = folder and folder / "digests" / f"{digest_of(str(file.resolve()))}.json"
    known = record and read_json(record)
    if known and known.get("stamp") == list(stamp) and "sha256" in known:
        return known["sha256"]
    digest = read(file)
    if record and time.time_ns() - stamp.mtime_ns > SETTLED_SECONDS * 10**9:
        # Without room or permission the file is read again the next time.
        with contextlib.suppress(OSError):
            record.parent.mkdir(parents=True, exist_ok=True)
            keep_json(record, {"file": str(file.resolve()), "stamp": stamp, "sha256": digest})
    return digest


def read_json(file: Path) -> dict[str, Any] | None:
    """Return what `keep_json` wrote to `file`, None if there is nothing or something else."""
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def keep_json(file: Path, values: dict[str, Any]) -> None:
    """Write `values` to `file`, whole or not at all."""
    with replacing(file) as beside:
        beside.write_text(json.dumps(values), "utf-8")
