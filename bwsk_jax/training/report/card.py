"""The model card that gathers the variants in an output folder."""

from pathlib import Path
from typing import Any

from bwsk_jax.training.data.hub import is_hub_name
from bwsk_jax.training.progress import duration
from bwsk_jax.training.report.loading import loading_snippet
from bwsk_jax.training.report.results import gather_runs
from bwsk_jax.writing import replacing

CARD_FILE = "README.md"
MARK = "<!-- Written by bwsk_jax.train, which replaces this file: without this line it refuses to. -->"
"""By this line a card is known as the program's own."""
TEMPLATE = """---
{{ card_data }}
---

{{ mark }}

# {{ title }}

BERT trained by bwsk_jax, a JAX package whose *reversible* mode inverts layers in the backward pass
instead of keeping what the forward pass computed. All modes compute the same function of the same
parameters.

{{ tables }}

*Validation* and *Test* are perplexities of the exported model. Where *Metric* is `pseudo_perplexity` they are
exp of the mean masked-language-model loss over overlapping windows with 15% of the tokens masked, on fixed
masks; where it is `exact_pseudo_perplexity`, every token of the text was masked, one at a time (Salazar et
al. 2020). The two do not compare. *Unigram* is the perplexity of the training text's token frequencies on
the same tokens of the test text: a model above it has learned nothing.
Memory is the peak of one training step in MB of 10^6 bytes.

## Use

```python
{{ snippet }}
```

## Training

{{ settings }}
"""

MODE_TITLES = {
    "conventional": "Conventional",
    "bwsk_analyzed": "Analyzed",
    "bwsk_reversible": "Reversible",
}
EXPERIMENT_TITLES = {"finetune": "Fine-tune", "scratch": "From scratch"}
COLUMNS = (
    *("Mode", "Final loss", "Metric", "Validation", "Test", "Unigram"),
    *("Peak MB", "Step ms", "Time", "Epochs"),
)


def write_model_card(root: Path) -> None:
    """Write `root`/README.md from the results of the variants that are there, at least one."""
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    runs = gather_runs(root)
    slug = next(iter(runs.values()))["model_slug"]
    evaluations = [
        EvalResult(
            task_type="fill-mask",
            dataset_type=_dataset_id(run["settings"]["dataset"]),
            dataset_name=f"{_dataset_id(run['settings']['dataset'])} (test), {name}",
            metric_type="perplexity",
            metric_name=run["metric_name"].replace("_", "-"),
            metric_value=round(run["test_metric"], 4),
        )
        for name, run in runs.items()
    ]
    data = ModelCardData(
        language="en",
        library_name="transformers",
        pipeline_tag="fill-mask",
        tags=["bert", "jax", "reversible-backpropagation"],
        model_name=f"BWSK {slug}",
        eval_results=evaluations,
    )
    card = ModelCard.from_template(
        data,
        template_str=TEMPLATE,
        mark=MARK,
        title=f"BWSK {slug}",
        tables="\n\n".join(_experiment(runs, experiment) for experiment in _experiments(runs)),
        snippet=loading_snippet("PATH", next(iter(runs))),
        settings=_settings(runs),
    )
    with replacing(root / CARD_FILE) as beside:
        card.save(beside)


def is_own_card(file: Path) -> bool:
    """Whether `write_model_card` wrote `file`, so that it may be replaced."""
    return MARK.encode() in file.read_bytes()


def _dataset_id(dataset: str) -> str:
    """Return a dataset's name on the Hub without its configuration, or the last part of a folder's path.

    >>> _dataset_id("Salesforce/wikitext:wikitext-2-raw-v1"), _dataset_id("/data/texts")
    ('Salesforce/wikitext', 'texts')
    """
    if Path(dataset).is_dir():
        return Path(dataset).name
    name = dataset.rpartition(":")[0] or dataset
    return name if is_hub_name(name) else Path(name).name


def _experiments(runs: dict[str, dict[str, Any]]) -> list[str]:
    present = {run["experiment"] for run in runs.values()}
    return [experiment for experiment in EXPERIMENT_TITLES if experiment in present]


def _experiment(runs: dict[str, dict[str, Any]], experiment: str) -> str:
    chosen = {run["mode"]: run for run in runs.values() if run["experiment"] == experiment}
    rows = [
        (
            MODE_TITLES[mode],
            f"{run['final_train_loss']:.4f}",
            f"`{run['metric_name']}`",
            f"{run['final_val_metric']:.2f}",
            f"{run['test_metric']:.2f}",
            f"{run['test_unigram_perplexity']:.2f}",
            f"{run['peak_memory_mb']:.1f}",
            f"{run['step_time_ms']:.1f}",
            duration(run["wall_time_s"]),
            str(run["epochs_completed"]),
        )
        for mode, run in chosen.items()
    ]
    lines = [f"## {EXPERIMENT_TITLES[experiment]}", "", _markdown_table(COLUMNS, rows)]
    if {"conventional", "bwsk_reversible"} <= chosen.keys():
        saved = 1 - chosen["bwsk_reversible"]["peak_memory_mb"] / chosen["conventional"]["peak_memory_mb"]
        lines += ["", f"Memory saved by *reversible* against *conventional*: {saved:.1%}"]
    return "\n".join(lines)


def _settings(runs: dict[str, dict[str, Any]]) -> str:
    names = list(next(iter(runs.values()))["settings"])
    rows = [(name, *(str(run["settings"][name]) for run in runs.values())) for name in names]
    return _markdown_table(("Setting", *runs), rows)


def _markdown_table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
