"""Train a variant from the command line: `python -m bwsk_jax.train --variant scratch-reversible`."""

import json
import os
import sys
from collections.abc import Sequence

from bwsk_jax.training.command_line import parse
from bwsk_jax.training.flag_values import FlagError
from bwsk_jax.training.interruption import Interruption, RunInterruptedError
from bwsk_jax.training.options import Options
from bwsk_jax.usage import UsageError


def main(args: Sequence[str] | None = None) -> None:
    """Parse `args` (the command line's by default) and train; or, with `--dry-run`, print what it takes.

    Ends with one line on standard error and status 2 when the flags, files or data cannot be used, before
    anything is written; with status 1 when training diverged or something could not be written on the way;
    with 143 or 130 when SIGTERM or Ctrl-C ended it. A run that was cut short goes on where it was last saved;
    one that is finished is reported again.
    """
    try:
        with Interruption() as interruption:
            _train(parse(args), interruption)
    except (FlagError, UsageError) as mistake:
        _quit(mistake, status=2)
    except RunInterruptedError as ended:
        print(ended, file=sys.stderr)
        sys.exit(ended.exit_status)


def _train(options: Options, interruption: Interruption) -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault(
        "TRANSFORMERS_NO_ADVISORY_WARNINGS", "1"
    )  # that there is no PyTorch: none is needed
    from bwsk_jax import PlanError, bert
    from bwsk_jax.training.checkpoints import RestoreError
    from bwsk_jax.training.configuration import (
        OtherRunError,
        check_same_run,
        finished_results,
        with_recorded_limit,
    )
    from bwsk_jax.training.corpus import DatasetError
    from bwsk_jax.training.device import DeviceError, select_device
    from bwsk_jax.training.dry_run import dry_run
    from bwsk_jax.training.loop import DivergedError
    from bwsk_jax.training.memory_limit import FitError, fit_memory
    from bwsk_jax.training.results import ResultsError
    from bwsk_jax.training.run import gather, print_summary, run
    from bwsk_jax.training.setup import SettingError, prepare
    from bwsk_jax.training.sources import SourceError

    mistakes = (
        DeviceError,
        SettingError,
        SourceError,
        DatasetError,
        bert.BertConfigError,
        bert.CheckpointError,
        bert.TokenizerError,
        PlanError,
        FitError,
        OtherRunError,
        ResultsError,
        OSError,
    )
    try:
        select_device(options.device)
        if options.dry_run:
            return print(json.dumps(dry_run(options), indent=2))
        setup = prepare(options)
        check_same_run(setup)
        results = finished_results(setup)
        if results is None:
            setup = fit_memory(with_recorded_limit(setup))
    except mistakes as mistake:
        _quit(mistake, status=2)
    try:
        if results is None:
            for note in setup.notes:
                print(f"note: {note}", file=sys.stderr)
            results = run(setup, interruption)
        else:
            print(f"{setup.folder} is finished; to train again give another --out, or remove the folder")
            gather(setup, results)
    except RestoreError as damage:
        _quit(damage, status=2)
    except DivergedError as divergence:
        _quit(divergence, status=1)
    except OSError as failure:
        _quit(f"{failure}; what was saved is whole, and the same command continues from there", status=1)
    print_summary(setup, results)


def _quit(error: Exception | str, status: int) -> None:
    first, *faults = (line.strip() for line in str(error).splitlines())
    print(f"error: {first} {'; '.join(faults)}".rstrip(), file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()
