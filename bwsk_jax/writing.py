"""Files that are written whole or not at all, and folders that can be written to."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Yield a temporary path beside `file`. At the end it replaces `file`; on failure it is removed.

    A crash or a full disk therefore leaves the previous `file` whole. An `OSError` names `file`, not the
    temporary path.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(Path(folder, "greeting.txt")) as temporary:
    ...         _ = temporary.write_text("hello")
    ...     os.listdir(folder)
    ['greeting.txt']
    """
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # the user's umask; safetensors would keep others from reading
        yield temporary
        temporary.chmod(mode)
        os.replace(temporary, file)
    except OSError as error:
        if error.errno is not None and error.filename2 is None:
            error.filename = str(file)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def copy_files(files: Mapping[str, Path], folder: Path) -> None:
    """Copy each file to its name in `folder`, whole or not at all."""
    for name, file in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with replacing(folder / name) as beside:
            shutil.copyfile(file, beside)


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Remove what `replacing` left beside the file `name`, by default any, because it was killed.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in (".a.txt.12.tmp", ".b.txt.12.tmp", "a.txt"):
    ...         Path(folder, name).touch()
    ...     remove_leftovers(Path(folder), "a.txt")
    ...     sorted(os.listdir(folder))
    ['.b.txt.12.tmp', 'a.txt']
    """
    for leftover in folder.glob(f".{name}.*.tmp"):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()


def check_writable(folder: Path) -> None:
    """Raise `OSError` if no file can be created in `folder`, or in the nearest folder above it that exists.

    A link that leads nowhere exists, and takes no file. A long run asks this before it starts. The answer
    comes from creating a file, which is deleted at once: permissions alone say little, because root has them
    all and a file system may be read-only.
    """
    for place in (folder, *folder.parents):
        if os.path.lexists(place):
            tempfile.TemporaryFile(dir=place).close()
            return
