"""From the command line to the flags of the inspector, mistakes in one line."""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Sequence

import tyro

from bwsk_jax.inspection.arguments import SubjectError
from bwsk_jax.inspection.options import Options

__all__ = ["parse"]


def parse(args: Sequence[str] | None) -> Options:
    """Return the flags in `args`, by default the command line's. Ends the program after `--help`.

    Raises:
        SubjectError: what is no flag, or no value for one.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(Options, args=args)
    except SystemExit as ended:
        if not ended.code:
            raise
        raise SubjectError(f"{_gist(said.getvalue())} (see --help)") from None


def _gist(box: str) -> str:
    """The first paragraph in tyro's frame.

    >>> _gist("╭─ Error ───╮\\n│ Unrecognized │\\n│ options: --x │\\n│ ──────────── │\\n│ See ... │")
    'Unrecognized options: --x'
    """
    inside = (line.strip("│ ") for line in box.splitlines() if line.startswith("│"))
    paragraph = itertools.takewhile(lambda line: line and not line.startswith("─"), inside)
    return " ".join(paragraph) or " ".join(box.split())
