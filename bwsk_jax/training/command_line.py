"""Read the flags of a run: from the command line, else from the file that --config names, else defaults."""

import dataclasses
import json
import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from bwsk_jax import usage
from bwsk_jax.training.flags import (
    OTHER_NAMES,
    TYPES,
    FlagError,
    Flags,
    nearest,
    shown,
    type_fault,
    value_fault,
)

# What a run's options.json holds beside its flags.
NO_FLAGS = ("text", "fitted_max_bytes")


@dataclass(frozen=True)
class _CommandLine(Flags):
    config: Annotated[str | None, shown("FILE")] = None
    """JSON file of flags, such as another run's options.json; flags given beside it win."""


def parse(args: Sequence[str] | None) -> Flags:
    """Return the flags in `args`, by default the command line's arguments.

    Raises `FlagError` for a value out of range and for a file that cannot be used, and `UsageError` for
    anything that is not a flag or not a value of the flag's type.
    """
    args = sys.argv[1:] if args is None else args
    _check_names(args)
    given = _parse(args, _CommandLine())
    if given.config is not None:
        _check("config", given.config)
        given = _parse(args, _CommandLine(**read_flags(given.config)))
    values = {field.name: getattr(given, field.name) for field in dataclasses.fields(Flags)}
    for name, value in values.items():
        _check(name, value)
    return Flags(**values)


def _check_names(args: Sequence[str]) -> None:
    """Raise `FlagError` for a flag that transformers has under another name.

    >>> _check_names(["--learning-rate=1e-3"])
    Traceback (most recent call last):
    bwsk_jax.training.flags.FlagError: unknown flag --learning-rate: did you mean --lr?
    """
    for word in args:
        flag = word.partition("=")[0]
        if flag.startswith("--") and (name := flag[2:].replace("-", "_")) in OTHER_NAMES:
            known = nearest(name, TYPES).replace("_", "-")
            raise FlagError(f"unknown flag {flag}: did you mean --{known}?")


def _check(name: str, value: Any) -> None:
    if fault := value_fault(name, value):
        raise FlagError(f"--{name.replace('_', '-')} {shlex.quote(str(value))} {fault}")


def _parse(args: Sequence[str] | None, default: _CommandLine) -> _CommandLine:
    return usage.parse(
        _CommandLine, args, default=default, prog="python -m bwsk_jax.train", description=Flags.__doc__
    )


def read_flags(path: str) -> dict[str, Any]:
    """Return flag -> value from the JSON file at `path`, which has the form of a run's options.json.

    Raises `FlagError`, which names the file, the key, its value and what was expected.
    """
    entries = _read(path)
    return {name: _value(path, name, value) for name, value in entries.items() if name not in NO_FLAGS}


def _read(path: str) -> dict[str, Any]:
    try:
        entries = json.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise FlagError(f"--config {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise FlagError(f"--config {path} is not JSON: {error}") from None
    if not isinstance(entries, dict):
        raise FlagError(f"--config {path} holds no JSON object of flags, but {json.dumps(entries)[:40]}")
    return entries


def _value(path: str, name: str, value: Any) -> Any:
    if name not in TYPES:
        raise FlagError(f"--config {path}: unknown key {name!r}: did you mean {nearest(name, TYPES)!r}?")
    if value == "inf" and float in TYPES[name]:  # JSON has no infinity
        value = math.inf
    if fault := type_fault(name, value) or value_fault(name, value):
        raise FlagError(f"--config {path}: {name} {json.dumps(value)} {fault}")
    return value
