"""Search for a recipe that leaves the frequencies of the tokens behind on WikiText-2, on two CPU cores.

    python -m experiments.recipes --dataset FOLDER --tokenizer VOCABULARY

Claim: `--recipe best` leaves the plateau of the unigrams within one epoch, for each of three seeds.
Parts of it are changed alone. The model has 2 layers x 128 and the vocabulary of BERT-base; one trial trains
`mini` instead, which has 4 layers x 256.
Expected: a validation pseudo-perplexity of at most 0.45 of the unigrams', for each of the three seeds.
Cost: about three minutes for each trial on two idle cores, and half an hour for `mini`. `--max-steps` scales
it down.
What is done is not done again: results are in experiments/results/DEVICE/recipes.json.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bwsk_jax.errors import mistakes_in_one_line
from bwsk_jax.usage import parse
from experiments.records import device_name, read, write
from experiments.runs import SMALL, trained

BEST = SMALL | {"seq_len": 32, "batch_size": 64, "validate_every": 250, "patience": 100}
"""What all trials share."""
LONGER = {"seq_len": 64, "batch_size": 32}
TRIALS: dict[str, dict[str, Any]] = {
    "best": {},
    "best, seed 1": {"seed": 1},
    "best, seed 2": {"seed": 2},
    "mini": {"preset": "mini"},
    "windows of 16": {"seq_len": 16, "batch_size": 128},
    "windows of 64": LONGER,
    "windows of 64, seed 1": LONGER | {"seed": 1},
    "windows of 64, seed 2": LONGER | {"seed": 2},
    "windows of 64, positions drawn": LONGER | {"positions": "drawn"},
    "windows of 64, half of the rate": LONGER | {"lr": 0.75e-3},
}
"""What each trial has in place of that."""


@dataclass(frozen=True)
class Options:
    """What is trained on, and for how long."""

    dataset: str = "Salesforce/wikitext:wikitext-2-raw-v1"
    tokenizer: str = "google-bert/bert-base-uncased"
    out: str = "runs-recipes"
    """Receives all runs."""
    max_steps: int = 1000


def summary(flags: dict[str, Any], results: dict[str, Any]) -> dict[str, Any]:
    """Return what is kept of a run: its flags, its curve as shares of the unigrams' perplexity, its cost."""
    unigram = results["unigram_perplexity"]
    curve = [[step, round(value / unigram, 4)] for step, value in results["val_curve"]]
    return {
        "flags": flags,
        "validation": results["best_val_metric"],
        "unigram": unigram,
        "ratio": results["best_val_metric"] / unigram,
        "curve": curve,
        "seconds": results["wall_time_s"],
    }


def table(found: dict[str, dict[str, Any]]) -> str:
    """Return the trials in Markdown, the best first."""
    lines = ["| trial | steps | validation | / unigrams | minutes |", "|---|---|---|---|---|"]
    for name, run in sorted(found.items(), key=lambda item: item[1]["ratio"]):
        steps = run["curve"][-1][0]
        figures = f"{run['validation']:.1f} | {run['ratio']:.3f} | {run['seconds'] / 60:.1f}"
        lines.append(f"| {name} | {steps} | {figures} |")
    return "\n".join(lines)


def main() -> None:
    """Run the trials that the file does not have yet, then print the table."""
    with mistakes_in_one_line():
        options = parse(Options, None, description=__doc__)
    device = device_name()
    found = read(device, "recipes") or {}
    text = {"dataset": options.dataset, "tokenizer": options.tokenizer}
    for name, changed in TRIALS.items():
        if name not in found:
            flags = BEST | {"max_steps": options.max_steps} | changed
            out = Path(options.out) / name.replace(",", "").replace(" ", "-")
            found[name] = summary(flags, trained("scratch-conventional", out, text | flags))
            write(device, "recipes", found)
    print(table(found))


if __name__ == "__main__":
    main()
