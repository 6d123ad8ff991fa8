"""Conventional against reversible over several seeds: do they end at the same validation loss?

    python -m experiments.equivalence

Claim: reversible training ends where conventional training does. The paired differences of the validation
losses lie within 0.01 nats in float32 and 0.02 in bf16. Two conventional seeds, the yardstick, lie further
apart.
Expected: intervals as in experiments/results/cpu/equivalence.json.
Cost: half a minute for each of 20 runs on two cores; `--max-steps` scales it. What is done is not done
again.

The model is that of the demo, on text that ships with Python, with dropout. Reversible runs take least
memory: all that can be recovered is recovered. The interval is Student's t, of 95%. The modes are
equivalent at a margin if it lies within the margin (two one-sided tests at 2.5% each; Schuirmann 1987,
doi:10.1007/BF01068419).
"""

import itertools
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy import stats

from bwsk_jax.errors import mistakes_in_one_line
from bwsk_jax.usage import parse
from experiments.records import device_name, read, write
from experiments.runs import SMALL, trained

MARGINS = {"float32": 0.01, "bf16": 0.02}
FLAGS = SMALL | {"dropout": 0.1, "validate_every": 100, "patience": 100}
CONVENTIONAL = "scratch-conventional"
LIMITS = {CONVENTIONAL: None, "scratch-reversible": "inf"}
"""Of recomputation, by variant."""
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Options:
    """How much is trained."""

    seeds: int = 5
    max_steps: int = 80
    out: str = "runs-equivalence"
    """Receives all runs."""


def interval(differences: list[float]) -> dict[str, float]:
    """Return the mean of some differences and its confidence interval. Differences that are all equal are one
    point.

    >>> interval([0.0, 0.0, 0.0])
    {'mean': 0.0, 'low': 0.0, 'high': 0.0}
    """
    mean = sum(differences) / len(differences)
    if len(set(differences)) == 1:
        return {"mean": mean, "low": mean, "high": mean}
    low, high = stats.ttest_1samp(differences, 0.0).confidence_interval(CONFIDENCE)
    return {"mean": mean, "low": float(low), "high": float(high)}


def comparison(losses: dict[str, list[float]], margin: float) -> dict[str, Any]:
    """Return the paired differences of the modes, and those of pairs of conventional seeds.

    Args:
      losses: nats for each seed, by variant.
      margin: nats within which the modes count as equal.
    """
    differences = [a - b for a, b in zip(*losses.values(), strict=True)]
    paired = interval(differences)
    return {
        "losses": losses,
        "conventional - reversible": paired,
        "margin": margin,
        "equivalent": -margin < paired["low"] and paired["high"] < margin,
        "largest difference of a pair": max(map(abs, differences)),
        "standard deviation between conventional seeds": statistics.stdev(losses[CONVENTIONAL]),
    }


def main() -> None:
    """Train what is not trained yet, and write the comparison of each precision when it is complete."""
    with mistakes_in_one_line():
        options = parse(Options, None, description=__doc__)
    found = read(device_name(), "equivalence") or {}
    for precision, margin in MARGINS.items():
        losses: dict[str, list[float]] = {name: [] for name in LIMITS}
        for seed, (name, limit) in itertools.product(range(options.seeds), LIMITS.items()):
            flags = FLAGS | {"precision": precision, "seed": seed, "max_steps": options.max_steps}
            out = Path(options.out) / f"{precision}-{seed}"
            results = trained(name, out, flags | {"max_overhead": limit})
            losses[name].append(math.log(results["val_curve"][-1][1]))
        found[precision] = comparison(losses, margin) | {"flags": FLAGS | {"max_steps": options.max_steps}}
        write(device_name(), "equivalence", found)
        print(precision, found[precision], flush=True)


if __name__ == "__main__":
    main()
