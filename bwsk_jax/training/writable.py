"""Whether a folder can be written, found out before the work that is to end there."""

import tempfile
from pathlib import Path


def check_writable(folder: Path) -> None:
    """Raise `OSError` where no file can be made in `folder` or, if it is not there, in what would hold it.

    Tries it with a file that goes at once, because permissions say little: root has them all, and a file
    system may be read-only.
    """
    for place in (folder, *folder.parents):
        if place.exists():
            tempfile.TemporaryFile(dir=place).close()
            return
