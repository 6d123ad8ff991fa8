"""From the command line to checked flags: flag over --config's file over default."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from bwsk_jax import usage
from bwsk_jax.training.config_file import read_flags
from bwsk_jax.training.flag_values import FlagError, value_fault
from bwsk_jax.training.options import Options


@dataclass(frozen=True)
class _CommandLine(Options):
    config: str | None = None
    """JSON file of flags, such as another run's options.json; flags given beside it win."""


def parse(args: Sequence[str] | None) -> Options:
    """Return the flags in `args`, by default the command line's.

    Raises `FlagError` for a value out of range and for a file that cannot be used, `UsageError` for what is
    no flag, or no number where one is wanted.
    """
    given = _parse(args, _CommandLine())
    if given.config is not None:
        given = _parse(args, _CommandLine(**read_flags(given.config)))
    options = {field.name: getattr(given, field.name) for field in dataclasses.fields(Options)}
    for name, value in options.items():
        if fault := value_fault(name, value):
            raise FlagError(f"--{name.replace('_', '-')} {value} {fault}")
    return Options(**options)


def _parse(args: Sequence[str] | None, default: _CommandLine) -> _CommandLine:
    return usage.parse(
        _CommandLine, args, default=default, prog="python -m bwsk_jax.train", description=Options.__doc__
    )
