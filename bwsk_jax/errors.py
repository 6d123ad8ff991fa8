"""The one kind of error that the command line answers with a line instead of a traceback."""

import contextlib
import sys
from collections.abc import Iterator
from typing import NoReturn


class UserError(ValueError):
    """Something that the user gave cannot be used: a flag, or a file, folder or name that a flag points to.

    The message is written for the user: it names the thing, what was found, and what to do. The commands of
    this package print it as one line on standard error and end with exit status 2.
    """


def quit_with(error: Exception | str, status: int) -> NoReturn:
    """Print `error` as one line on standard error and end with exit status `status`."""
    print(in_one_line(error), file=sys.stderr)
    sys.exit(status)


def in_one_line(error: Exception | str) -> str:
    """Return what a command says of an error.

    >>> in_one_line("it cannot be read:\\n  no such file")
    'error: it cannot be read: no such file'
    """
    first, *faults = (line.strip() for line in str(error).splitlines())
    return f"error: {first} {'; '.join(faults)}".rstrip()


@contextlib.contextmanager
def mistakes_in_one_line() -> Iterator[None]:
    """Answer a mistake of the user inside with one line and exit status 2, Ctrl-C with exit status 130."""
    try:
        yield
    except (UserError, OSError) as mistake:
        quit_with(mistake, status=2)
    except KeyboardInterrupt:
        sys.exit(130)
