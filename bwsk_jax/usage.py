"""From the command line to flags; a mistake is one line."""

import contextlib
import io
import itertools
from collections.abc import Sequence
from typing import Any, TypeVar

import tyro

__all__ = ["UsageError", "parse"]

Flags = TypeVar("Flags")


class UsageError(ValueError):
    """What is no flag, or no value for one."""


def parse(flags: type[Flags], args: Sequence[str] | None, **options: Any) -> Flags:
    """Return the dataclass `flags` with what `args` says, by default the command line.

    Ends the program after `--help`. `options` are those of `tyro.cli`.

    Raises:
        UsageError: as it says.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(flags, args=args, **options)
    except SystemExit as ended:
        if not ended.code:
            raise
        raise UsageError(_in_one_line(said.getvalue())) from None


def _in_one_line(message: str) -> str:
    """The first paragraph of tyro's message, and the flags that the others propose.

    Where there is UTF-8 it stands in a frame with a title; elsewhere the title is a paragraph of its own.

    >>> _in_one_line("╭─ Error ──╮\\n│ Unknown: │\\n│ --x      │\\n│ ──────── │\\n│   --y X  │")
    'Unknown: --x (did you mean --y?)'
    >>> _in_one_line(" Error\\n -------\\n Error parsing --y: no integer\\n -------\\n   --y INT")
    'Error parsing --y: no integer (see --help)'
    """
    lines = [line.strip("│ ") for line in message.splitlines()]
    is_text = lambda line: bool(line.strip("─-")) and line[0] not in "╭╰"
    paragraphs = [list(group) for text, group in itertools.groupby(lines, is_text) if text]
    first, *others = paragraphs if message.startswith("╭") else paragraphs[1:]
    shown = {line.split()[0] for other in others for line in other if line.startswith("--")}
    said = " ".join(first)
    proposed = sorted(shown.difference(said.replace(":", "").split()))
    return f"{said} (did you mean {', '.join(proposed)}?)" if proposed else f"{said} (see --help)"
