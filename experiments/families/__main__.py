"""What the planner finds in 24 families of models: bytes per layer, recomputation, compiled memory.

    python -m experiments.families

Claim: with inverses, the plan of least memory never saves more than replaying layer by layer does, and never
recomputes more. Where a layer is invertible by construction, it saves nothing at all.
Expected: the table in docs/plans.md.
Cost: about 5 minutes on 2 cores and 2 GiB. It only compiles: it runs nothing and downloads nothing.
"""

import math

import jax.numpy as jnp

from experiments.families import FAMILIES, Size
from experiments.families.measure import SCANS, abstract, plan, temp_bytes

SIZE = Size(batch=8, time=256, width=256, layers=12)
COLUMNS = (
    "family",
    "plain keeps",
    "least memory",
    "recomputes",
    "without inverses",
    "recomputes",
    "compiled: plain",
    "`jax.checkpoint`",
    "least memory",
)


def mebibytes(count: int) -> str:
    """Return a number of bytes in MiB, to three digits."""
    return f"{float(f'{count / 2**20:.3g}'):,g}"


def row(name: str) -> list[str]:
    """Return the row of one family: its name and its figures."""
    stack = abstract(FAMILIES[name], jnp.float32, SIZE)
    least, replaying = (plan(stack, max_overhead=math.inf, invert=invert) for invert in (True, False))
    temps = (temp_bytes(stack, SCANS[scan]) for scan in ("plain", "checkpoint", "least"))
    return [
        name,
        mebibytes(least.residual_bytes),
        mebibytes(least.saved_bytes),
        f"{least.overhead:.1%}",
        mebibytes(replaying.saved_bytes),
        f"{replaying.overhead:.1%}",
        *map(mebibytes, temps),
    ]


def main() -> None:
    """Print the table in Markdown."""
    print(f"float32, {SIZE}; MiB per layer, then MiB of the whole compiled gradient\n")
    for cells in (COLUMNS, ["---"] * len(COLUMNS)):
        print("|", " | ".join(cells), "|")
    for name in FAMILIES:
        print("|", " | ".join(row(name)), "|", flush=True)


if __name__ == "__main__":
    main()
