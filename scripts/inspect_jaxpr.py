"""Look inside a function: which equations preserve information (S), which erase it (K), and what a plan does.

    python scripts/inspect_jaxpr.py --preset base
    python scripts/inspect_jaxpr.py --model FOLDER --precision bf16 --diff
    python scripts/inspect_jaxpr.py --function jax.nn:softmax --args "f32[4,128]" --plan
    python scripts/inspect_jaxpr.py --preset base --html base.html    (about half a minute on two cores)

Nothing is run, only traced: it needs no accelerator and no weights. Colours are for terminals and off where
NO_COLOR is set. `bwsk_jax.inspection.document` describes the JSON.
"""

import os
import sys
from collections.abc import Sequence

import tyro

from bwsk_jax.inspection.options import Options


def main(args: Sequence[str] | None = None) -> None:
    """Parse `args` (the command line's by default) and show.

    Ends with one line on standard error and status 2 when what is asked for cannot be shown.
    """
    options = tyro.cli(Options, args=args)
    from bwsk_jax import PlanError, bert
    from bwsk_jax.inspection.arguments import SubjectError
    from bwsk_jax.inspection.show import show

    mistakes = (SubjectError, PlanError, bert.BertConfigError, bert.CheckpointError, bert.BertInputError)
    try:
        show(options)
    except (*mistakes, OSError) as mistake:
        print(f"error: {' '.join(str(mistake).split())}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    main()
