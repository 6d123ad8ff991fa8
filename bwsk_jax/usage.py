"""Parse a command line into a dataclass of flags, with mistakes told in one line."""

import contextlib
import io
import itertools
import re
import typing
from collections.abc import Sequence
from typing import Any, TypeVar

import tyro

from bwsk_jax.errors import UserError

__all__ = ["UsageError", "parse"]

Flags = TypeVar("Flags")
TYPE_NAMES = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}
MISSING = "Missing from "
REQUIRED = re.compile(r"^[│ ]+([A-Z_]{2,})\b", re.MULTILINE)
WRONG_TYPE = re.compile(r"Error parsing --(?P<flag>[\w-]+): .*'(?P<value>.*)'")


class UsageError(UserError):
    """The command line has something that is not a flag, or not a value of the flag's type."""


def parse(flags: type[Flags], args: Sequence[str] | None, **options: Any) -> Flags:
    """Return the dataclass `flags`, filled in from `args` (by default the command line's arguments).

    `--help` prints the help and ends the program. `options` are passed on to `tyro.cli`.

    Raises `UsageError` for anything in `args` that is not a flag or not a value of one.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(flags, args=args, **options)
    except SystemExit as ended:
        if not ended.code:
            raise
        message = _in_one_line(said.getvalue())
        raise UsageError(_wrong_type(flags, message) or message) from None


def _wrong_type(flags: type, message: str) -> str | None:
    """Return which type a flag must have if `message` says that its value has another, else None.

    >>> _wrong_type(type("Flags", (), {"__annotations__": {"n": int | None}}), "Error parsing --n: no 'x'.")
    '--n x must be an integer'
    """
    found = WRONG_TYPE.match(message)
    hint = found and typing.get_type_hints(flags).get(found["flag"].replace("-", "_"))
    kinds = [TYPE_NAMES[kind] for kind in typing.get_args(hint) or (hint,) if kind in (int, float)]
    return f"--{found['flag']} {found['value']} must be {kinds[0]}" if found and kinds else None


def _in_one_line(message: str) -> str:
    """Return the first paragraph of tyro's message, followed by the flags that its other paragraphs propose.

    On a UTF-8 terminal tyro draws a frame, whose border holds the title. Elsewhere the title is the first
    paragraph, and is left out.

    >>> _in_one_line("╭─ Error ──╮\\n│ Unknown: │\\n│ --x      │\\n│ ──────── │\\n│   --y X  │")
    'Unknown: --x (did you mean --y?)'
    >>> _in_one_line("│ Missing from x:  │\\n│   MODEL            │\\n│     A BERT.  │")
    'missing: MODEL (see --help)'
    >>> _in_one_line(" Error\\n -------\\n Error parsing --y: no integer\\n -------\\n   --y INT")
    'Error parsing --y: no integer (see --help)'
    """
    if MISSING in message:
        return f"missing: {', '.join(REQUIRED.findall(message))} (see --help)"
    lines = [line.strip("│ ") for line in message.splitlines()]
    is_text = lambda line: bool(line.strip("─-")) and line[0] not in "╭╰"
    paragraphs = [list(group) for text, group in itertools.groupby(lines, is_text) if text]
    first, *others = paragraphs if message.startswith("╭") else paragraphs[1:]
    shown = {line.split()[0] for other in others for line in other if line.startswith("--")}
    said = " ".join(first)
    proposed = sorted(shown.difference(said.replace(":", "").split()))
    return f"{said} (did you mean {', '.join(proposed)}?)" if proposed else f"{said} (see --help)"
