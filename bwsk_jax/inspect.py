"""Look inside a function: which equations preserve information (S), which erase it (K), and what a plan does.

    python -m bwsk_jax.inspect --preset base
    python -m bwsk_jax.inspect --model FOLDER --precision bf16 --diff
    python -m bwsk_jax.inspect --function jax.nn:softmax --args "f32[4,128]" --plan
    python -m bwsk_jax.inspect --preset base --html base.html    (about half a minute on two cores)

The function is only traced, never run, so that no accelerator and no weights are needed. Colours are for
terminals, and off where NO_COLOR is set. `bwsk_jax.inspection.document` describes the JSON.
"""

import io
import os
import sys
from collections.abc import Sequence

import jax

from bwsk_jax import PlanError
from bwsk_jax.errors import UserError
from bwsk_jax.inspection.options import Options
from bwsk_jax.inspection.show import show
from bwsk_jax.usage import parse


def main(args: Sequence[str] | None = None) -> None:
    """Parse `args` (the command line's by default) and show what they ask for.

    If that cannot be shown, end with one line on standard error and status 2 before anything is shown. If the
    output is no longer read, end as `cat` does, silently with status 141.
    """
    try:
        show(parse(Options, args, prog="python -m bwsk_jax.inspect"))
    except BrokenPipeError:  # the reader of the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (UserError, PlanError, OSError) as mistake:
        print(f"error: {' '.join(str(mistake).split())}", file=sys.stderr)
        sys.exit(2)


def run() -> None:
    """What the command does: `main`, on the CPU unless JAX_PLATFORMS says otherwise."""
    if "JAX_PLATFORMS" not in os.environ:
        jax.config.update("jax_platforms", "cpu")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    main()


if __name__ == "__main__":
    run()
