"""Search for a recipe that leaves the frequencies of the tokens behind on WikiText-2, on two CPU cores.

    python -m experiments.recipes --dataset FOLDER --tokenizer VOCABULARY

Claim: `--recipe best` leaves the plateau of the unigrams within one epoch. Each of its parts is changed alone
in a trial. The model is smaller than `mini`, 2 layers x 128, with the vocabulary of bert-base-uncased.
Afterwards three seeds train with the best for longer.
Expected: a validation pseudo-perplexity of at most 0.45 of the unigrams', for each of the three seeds.
Cost: about three minutes for each trial and five for each seed, on two cores. `--max-steps` scales both down.
What is done is not done again: results are in experiments/results/DEVICE/recipes.json.
"""

import argparse
from pathlib import Path
from typing import Any

from experiments.records import device_name, read, write
from experiments.runs import trained

BEST = {"preset": "demo", "recipe": "best", "validate_every": 250, "patience": 100}
"""What all trials share."""
TRIALS: dict[str, dict[str, Any]] = {
    "best": {},
    "positions drawn": {"positions": "drawn"},
    "half of the rate": {"lr": 0.75e-3},
    "windows of 32": {"seq_len": 32, "batch_size": 64},
}
"""What each trial has in place of that."""
TRIAL_STEPS = 1000
SEEDS = (0, 1, 2)
SEED_STEPS = 2000


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
    """Run the trials and the seeds that the file does not have yet, then print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--dataset", default="Salesforce/wikitext:wikitext-2-raw-v1")
    parser.add_argument("--tokenizer", default="google-bert/bert-base-uncased")
    parser.add_argument(
        "--out", type=Path, default=Path("runs-recipes"), help="receives a folder for each run"
    )
    parser.add_argument("--max-steps", type=int, default=SEED_STEPS, help="of a seed; a trial has fewer")
    options = parser.parse_args()
    device = device_name()
    found = read(device, "recipes") or {"trials": {}, "seeds": {}}
    text = {
        "dataset": options.dataset or "Salesforce/wikitext:wikitext-2-raw-v1",
        "tokenizer": options.tokenizer,
    }
    plans = [
        ("trials", name, {"max_steps": min(options.max_steps, TRIAL_STEPS)} | t) for name, t in TRIALS.items()
    ]
    plans += [("seeds", str(seed), {"max_steps": options.max_steps, "seed": seed}) for seed in SEEDS]
    for kind, name, changed in plans:
        if name not in found[kind]:
            out = options.out / f"{kind}-{name.replace(' ', '-')}"
            results = trained("scratch-conventional", out, BEST | text | changed)
            found[kind][name] = summary(BEST | changed, results)
            write(device, "recipes", found)
    print(table(found["trials"]), table(found["seeds"]), sep="\n\n")


if __name__ == "__main__":
    main()
