"""A folder that one process at a time may write to."""

import contextlib
import fcntl
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from bwsk_jax.errors import UserError

LOCK_FILE = ".lock"
SECONDS_BETWEEN_TRIES = 0.1


class InUseError(UserError):
    """Another process writes to the folder."""


@contextlib.contextmanager
def locked(folder: Path, patience: float = 0.0) -> Iterator[None]:
    """Keep other processes from entering this for the same `folder`, which has to be there.

    The lock is the kernel's, on a file in `folder` that names its holder. So it ends with its process, even
    one that is killed, and it holds between machines that share the folder by NFS. On a file system that has
    no locks, the holder that the file names counts instead, as long as it may be alive.

    Raises `InUseError`, which names the holder, if the folder is still in use after `patience` seconds.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, locked(Path(folder)):
    ...     os.listdir(folder)
    ['.lock']
    """
    file = folder / LOCK_FILE
    deadline = time.monotonic() + patience
    while (stream := _taken(file)) is None:
        if time.monotonic() >= deadline:
            holder = _holder(file) or "another process"
            raise InUseError(
                f"{folder} is in use by {holder}: wait for it or give another --out; if it has ended, "
                f"remove {file}"
            )
        time.sleep(SECONDS_BETWEEN_TRIES)
    with stream:
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {socket.gethostname()}")
        stream.flush()
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


def _taken(file: Path) -> TextIO | None:
    """Return `file`, open and locked, or None if another process has it."""
    stream = file.open("a", encoding="utf-8")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        free = _is_still_there(file, stream)
    except BlockingIOError:
        free = False
    except OSError:  # the file system has no locks
        free = not _may_be_alive(_holder(file))
    if free:
        return stream
    stream.close()
    return None


def _is_still_there(file: Path, stream: TextIO) -> bool:
    """Whether `stream` is `file`, and not one of that name which its holder has removed by now."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), file.stat())
    except FileNotFoundError:
        return False


def _holder(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except OSError:
        return ""


def _may_be_alive(holder: str) -> bool:
    """Whether the process that `holder` names may be there: only of this machine's can one know.

    >>> _may_be_alive(""), _may_be_alive(f"process {os.getpid()} on {socket.gethostname()}")
    (False, True)
    """
    named = re.fullmatch(r"process (\d+) on (.+)", holder)
    if named is None:
        return False
    if named[2] != socket.gethostname():
        return True
    try:
        os.kill(int(named[1]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
