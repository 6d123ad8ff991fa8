"""Train a variant from the command line: `python -m bwsk_jax.train --variant scratch-reversible`."""

import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bwsk_jax.errors import UserError, quit_with
from bwsk_jax.training.loop.interruption import Interruption, RunInterruptedError

if TYPE_CHECKING:
    from bwsk_jax.training.flags import Flags


def main(args: Sequence[str] | None = None) -> None:
    """Parse `args` (the command line's by default) and train; or, with `--dry-run`, print what it takes.

    A mistake ends in one line on standard error. The exit status is 2 when the flags, files or data cannot be
    used, and then nothing was written. It is 1 when training diverged, or when something could not be written
    on the way; 143 when SIGTERM ended the run, and 130 when Ctrl-C did.

    A run that was cut short goes on where it was last saved. One that is finished is reported again.
    """
    try:
        with Interruption() as interruption:
            _train(args, interruption)
    except UserError as mistake:
        quit_with(mistake, status=2)
    except RunInterruptedError as ended:
        print(ended, file=sys.stderr)
        sys.exit(ended.exit_status)


def _train(args: Sequence[str] | None, interruption: Interruption) -> None:
    # Everything else is imported where a signal is answered, and what is slow after the flags are known to be
    # right and these variables are set.
    from bwsk_jax.training.command_line import parse

    flags = parse(args)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    # Not to be told that there is no PyTorch: none is needed.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from bwsk_jax.processes import ending_together
    from bwsk_jax.training.device import find_processes

    find_processes(flags)
    with ending_together():
        _follow(flags, interruption)


def _follow(flags: "Flags", interruption: Interruption) -> None:
    from bwsk_jax import PlanError
    from bwsk_jax.processes import from_first, is_first, silence_others, wait_for_all
    from bwsk_jax.training.device import select_device
    from bwsk_jax.training.dry_run import dry_run
    from bwsk_jax.training.loop.fit import DivergedError
    from bwsk_jax.training.memory import fit_memory, limited
    from bwsk_jax.training.report.push import PushError, check_push
    from bwsk_jax.training.report.summary import print_summary
    from bwsk_jax.training.resolve import prepare
    from bwsk_jax.training.resume import (
        check_own_files,
        check_same_run,
        finished_results,
        with_recorded_limit,
    )
    from bwsk_jax.training.run import gather, publish, run

    try:
        select_device(flags.device)
        silence_others()
        if flags.dry_run:
            return print(json.dumps(dry_run(flags), indent=2))
        setup = prepare(flags)
        check_own_files(setup.root)
        if flags.push_to_hub is not None:
            check_push(flags.push_to_hub)
        check_same_run(setup)
        recorded = with_recorded_limit(setup)
        # Once all have asked, the first process may write.
        results = from_first(finished_results(setup) if is_first() else None)
        if results is None:
            setup = fit_memory(recorded)
            if flags.fit is not None:
                setup = limited(setup, from_first(setup.flags.max_bytes))
    except (PlanError, OSError) as mistake:
        quit_with(mistake, status=2)
    try:
        if results is None:
            for note in setup.notes if is_first() else ():
                print(f"note: {note}", file=sys.stderr)
            results = run(setup, interruption)
        else:
            print(f"{setup.folder} is finished; to train again give another --out, or remove the folder")
            gather(setup, results)
        if flags.push_to_hub is not None:
            publish(setup, results, flags.push_to_hub)
        wait_for_all("all is written")
    except PushError as failure:
        quit_with(f"{failure}; all is finished here, and the same command pushes again", status=1)
    except DivergedError as divergence:
        quit_with(divergence, status=1)
    except OSError as failure:
        quit_with(f"{failure}; what was saved is whole, and the same command continues from there", status=1)
    if is_first():
        print_summary(setup, results)


if __name__ == "__main__":
    main()
