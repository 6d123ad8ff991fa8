"""Train a variant from the command line: `python -m bwsk_jax.train --variant scratch-reversible`."""

import os
import sys
from collections.abc import Sequence

import tyro

from bwsk_jax.training.options import Options
from bwsk_jax.variants import UnknownVariantError


def main(args: Sequence[str] | None = None) -> None:
    """Parse `args` (the command line's by default) and train.

    Ends with one line on standard error and status 2 when the flags, files or data cannot be used, before
    anything is written; with status 1 when training diverged.
    """
    options = tyro.cli(Options, prog="python -m bwsk_jax.train", args=args)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    from bwsk_jax import PlanError, bert
    from bwsk_jax.training.corpus import DatasetError
    from bwsk_jax.training.loop import DivergedError
    from bwsk_jax.training.run import print_summary, run
    from bwsk_jax.training.setup import SettingError, prepare
    from bwsk_jax.training.sources import SourceError

    mistakes = (
        UnknownVariantError,
        SettingError,
        SourceError,
        DatasetError,
        bert.BertConfigError,
        bert.CheckpointError,
        bert.TokenizerError,
        PlanError,
    )
    try:
        setup = prepare(options)
    except mistakes as mistake:
        _quit(mistake, status=2)
    for note in setup.notes:
        print(f"note: {note}", file=sys.stderr)
    try:
        results = run(setup)
    except DivergedError as divergence:
        _quit(divergence, status=1)
    print_summary(setup, results)


def _quit(error: Exception, status: int) -> None:
    first, *faults = (line.strip() for line in str(error).splitlines())
    print(f"error: {first} {'; '.join(faults)}".rstrip(), file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()
