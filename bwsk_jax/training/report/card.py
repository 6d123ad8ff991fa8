"""The model card that gathers the variants in an output folder."""

from pathlib import Path
from typing import Any

from bwsk_jax.training.data.hub import CARD_FILE
from bwsk_jax.training.progress import duration
from bwsk_jax.training.report.loading import loading_snippet
from bwsk_jax.training.report.origin import LICENSE_KEYS
from bwsk_jax.training.report.results import gather_runs
from bwsk_jax.writing import replacing

PLACE = "FOLDER_OR_HUB_NAME"
MARK = "<!-- Written by bwsk_jax.train, which replaces this file: without this line it refuses to. -->"
"""By this line a card is known as the program's own."""
TEMPLATE = """---
{{ card_data }}
---

{{ mark }}

# {{ title }}

A masked language model trained by bwsk_jax, a JAX package whose *reversible* mode follows a plan in the
backward pass: what the forward pass computed is saved, computed again, or recovered by inverting. All modes
compute the same function of the same parameters.

{{ origins }}

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
{{ best }}
## Training

{{ settings }}
"""

MODE_TITLES = {
    "conventional": "Conventional",
    "bwsk_analyzed": "Analyzed",
    "bwsk_reversible": "Reversible",
}
EXPERIMENT_TITLES = {"finetune": "Fine-tune", "scratch": "From scratch"}
METRIC_TITLES = {
    "pseudo_perplexity": "Pseudo-perplexity",
    "exact_pseudo_perplexity": "Exact pseudo-perplexity",
    "document_pseudo_perplexity": "Pseudo-perplexity in documents",
    "exact_document_pseudo_perplexity": "Exact pseudo-perplexity in documents",
}
COLUMNS = (
    *("Mode", "Final loss", "Metric", "Validation", "Test", "Unigram"),
    *("Peak MB", "Step ms", "Time", "Epochs"),
)


def write_model_card(root: Path, place: str = PLACE, best: str | None = None) -> None:
    """Write `root`/README.md from the results of the variants that are there, at least one.

    `place` is where readers of the card load the models from, and `best` the variant that loads from there if
    none is named.
    """
    from huggingface_hub import ModelCard

    runs = gather_runs(root)
    title = _title(runs)
    card = ModelCard.from_template(
        _metadata(runs, title),
        template_str=TEMPLATE,
        mark=MARK,
        title=title,
        origins="\n".join(_origin(name, run) for name, run in runs.items()),
        tables="\n\n".join(_experiment(runs, experiment) for experiment in _experiments(runs)),
        best=f"\nWithout `subfolder` it is `{best}` that loads.\n" if best else "",
        snippet=loading_snippet(place, next(iter(runs))),
        settings=_settings(runs),
    )
    with replacing(root / CARD_FILE) as beside:
        card.save(beside)


def _title(runs: dict[str, dict[str, Any]]) -> str:
    return f"BWSK {' and '.join(dict.fromkeys(run['model_slug'] for run in runs.values()))}"


def _metadata(runs: dict[str, dict[str, Any]], title: str) -> Any:
    """Return the card's metadata, a `ModelCardData` in which nothing is stated that is not known."""
    from huggingface_hub import ModelCardData

    origins = [run["origin"] for run in runs.values()]
    named = lambda key: list(dict.fromkeys(origin[key] for origin in origins if origin[key]))
    languages = list(dict.fromkeys(code for origin in origins for code in origin["language"]))
    architectures = dict.fromkeys(run["settings"]["architecture"] for run in runs.values())
    license_ = {key: origins[0][key] for key in LICENSE_KEYS}
    one_license = all(license_.items() <= origin.items() for origin in origins)
    known: dict[str, Any] = license_ if one_license else {}
    if bases := named("base_model"):
        known |= {"base_model": bases, "base_model_relation": "finetune"}
    return ModelCardData(
        language=languages or None,
        **known,
        datasets=named("dataset") or None,
        metrics=["perplexity"],
        library_name="transformers",
        pipeline_tag="fill-mask",
        tags=[*architectures, "jax", "reversible-backpropagation"],
        model_name=title,
        eval_results=[_evaluation(name, run) for name, run in runs.items()],
    )


def _evaluation(name: str, run: dict[str, Any]) -> Any:
    """Return the test of a variant, an `EvalResult`.

    In the Hub's format the results of one dataset stand together, told apart by the names of their metrics.
    """
    from huggingface_hub import EvalResult

    dataset, origin = run["settings"]["dataset"], run["origin"]
    return EvalResult(
        task_type="fill-mask",
        dataset_type=origin["dataset"] or dataset,
        dataset_name=dataset,
        dataset_config=origin["dataset_config"],
        dataset_split="test",
        metric_type="perplexity",
        metric_name=f"{METRIC_TITLES[run['metric_name']]} of {name}",
        metric_value=round(run["test_metric"], 4),
    )


def _origin(name: str, run: dict[str, Any]) -> str:
    """Return a line of the card on where a variant's model and text come from."""
    settings, origin = run["settings"], run["origin"]
    link = lambda name, kind="": f"[{name}](https://huggingface.co/{kind}{name})"
    base, text = origin["base_model"], origin["dataset"]
    began = "trained from scratch" if settings["init"] is None else f"fine-tuned from `{settings['init']}`"
    if base is not None:
        began = f"fine-tuned from {link(base)}"
    config = f", configuration `{origin['dataset_config']}`" if origin["dataset_config"] else ""
    shown = f"`{settings['dataset']}`" if text is None else link(text, "datasets/") + config
    license_ = f"; license `{origin['license']}`" if origin["license"] else ""
    return f"- `{name}` was {began} on {shown}{license_}."


def is_own_card(file: Path) -> bool:
    """Whether `write_model_card` wrote `file`, so that it may be replaced."""
    return MARK.encode() in file.read_bytes()


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
    names = dict.fromkeys(name for run in runs.values() for name in run["settings"])
    # An older version had fewer settings.
    rows = [(name, *(str(run["settings"].get(name, "")) for run in runs.values())) for name in names]
    return _markdown_table(("Setting", *runs), rows)


def _markdown_table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
