"""A file that is there whole or not at all."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Yield a temporary path beside `file`; move it there at the end, or remove it on failure.

    A crash or a full disk leaves the previous `file` whole. An `OSError` names `file`.

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
        mode = temporary.stat().st_mode  # as the user's umask has it; safetensors keeps others from reading
        yield temporary
        temporary.chmod(mode)
        os.replace(temporary, file)
    except OSError as error:
        if error.errno is not None and error.filename2 is None:
            error.filename = str(file)
        raise
    finally:
        temporary.unlink(missing_ok=True)
