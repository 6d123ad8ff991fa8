"""What a run leaves beside its model: training_results.json and loss.png, and results.json for all runs."""

import importlib.metadata
import json
import math
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bwsk_jax import Plan, bert
from bwsk_jax.errors import UserError
from bwsk_jax.training.data.hub import public_name
from bwsk_jax.training.loop.history import History
from bwsk_jax.training.recipe import IN_RECIPE
from bwsk_jax.training.report.metrics import METRIC_NAMES, FinalMetrics
from bwsk_jax.training.report.origin import command, origin, without_machine_paths
from bwsk_jax.training.setup import Setup
from bwsk_jax.variants import VARIANTS
from bwsk_jax.writing import replacing

RESULTS_FILE = "training_results.json"
GATHERED_FILE = "results.json"
WRITER = "bwsk_jax.train"
PACKAGES = ("bwsk_jax", "jax", "jaxlib", "flax", "optax", "transformers", "tokenizers", "safetensors")
TAXONOMIES = ("strict", "reference")


class ResultsError(UserError):
    """A file of results that cannot be read."""


@dataclass(frozen=True)
class Outcome:
    """What a run led to."""

    history: History
    final: FinalMetrics
    compiled_peak_bytes: int
    wall_time_s: float
    """Over all sessions, with setting up and testing."""


def training_results(setup: Setup, outcome: Outcome) -> dict[str, Any]:
    """Return the contents of training_results.json: the reference's keys first, then this project's.

    Memory is in MB of 10^6 bytes on one device. `peak_memory_mb` is what the device reports, if it does
    so, as a GPU does, and else the compiled peak. `val_metric_name` says what `val_curve` and its least,
    `best_val_metric`, are. `first_val_metric` is the same before the first step, None where an older
    version did not measure it. `metric_name` says what `test_metric` and `final_val_metric` are, which
    measure the exported model on the two splits. Of the unigram perplexities, `unigram_perplexity` is on
    the tokens of `best_val_metric`, and each of the other two on the tokens of the metric it is named
    after. `erasure_budget` and `parallelism_ratio` are the shares of leaf modules that are K and S as the
    reference counts them; `classification` has all shares, by that count and by the strict one. Nothing
    in it names a path of this machine: `command` has names in their place, and `origin` is what is known
    of model and text.
    """
    history, final = outcome.history, outcome.final
    step_seconds = float(np.median(history.step_seconds))
    compiled_peak_mb = outcome.compiled_peak_bytes / 1e6
    classification = _classification(setup)
    return {
        "model_slug": setup.model_slug,
        "experiment": setup.variant.experiment,
        "mode": setup.variant.mode,
        "final_train_loss": history.loss_curve[-1][1],
        "best_val_metric": history.best,
        "test_metric": final.test,
        "metric_name": final.name,
        "epochs_completed": history.epochs_completed,
        "total_steps": history.total_steps,
        "early_stopped": history.early_stopped,
        "wall_time_s": outcome.wall_time_s,
        "peak_memory_mb": _device_peak_mb() or compiled_peak_mb,
        "loss_curve": history.loss_curve,
        "val_curve": history.val_curve,
        "nan_count": history.nan_count,
        "erasure_budget": classification and classification["reference"]["modules"]["K"],
        "parallelism_ratio": classification and classification["reference"]["modules"]["S"],
        "val_metric_name": METRIC_NAMES[setup.flags.windows]["sampled"],
        "first_val_metric": history.first_validation,
        "unigram_perplexity": setup.unigram_perplexity,
        "final_val_metric": final.validation,
        "final_val_unigram_perplexity": final.validation_unigram,
        "test_unigram_perplexity": final.test_unigram,
        "compiled_peak_mb": compiled_peak_mb,
        "mesh": setup.flags.mesh,
        "step_time_ms": step_seconds * 1e3,
        "tokens_per_s": setup.recipe.tokens_per_step / step_seconds,
        "plan": None if setup.plan is None else _plan(setup, setup.plan),
        "classification": classification,
        "parameters": setup.parameters,
        "settings": run_settings(setup, history),
        "versions": _versions(),
        "origin": origin(setup),
        "command": command(setup.flags),
    }


def _plan(setup: Setup, plan: Plan) -> dict[str, Any]:
    """Return an encoder layer's plan in numbers and as its table; the limits are as they were asked for.

    The numbers are those of a device. The table has the windows of all of them.
    """
    max_overhead = setup.flags.max_overhead
    return {
        "saved_bytes": setup.per_device(plan.saved_bytes),
        "residual_bytes": setup.per_device(plan.residual_bytes),
        "overhead": plan.overhead,
        "fallback_overhead": plan.fallback_overhead,
        "inverted": plan.inverted,
        "max_overhead": None if max_overhead is None else str(max_overhead),
        "max_bytes": setup.flags.max_bytes,
        "table": without_machine_paths(str(plan)),
    }


def _classification(setup: Setup) -> dict[str, Any] | None:
    """Return the shares of S, ~S and K of the training computation, for the variants that look at it."""
    if not setup.variant.plans:
        return None
    shape = (setup.recipe.batch_size, setup.recipe.seq_len)
    reports = [bert.classify_training(setup.config, *shape, setup.dtype, taxonomy) for taxonomy in TAXONOMIES]
    return {report.taxonomy: report.ratios | {"leaf_modules": report.leaf_modules} for report in reports}


def run_settings(setup: Setup, history: History) -> dict[str, Any]:
    """Return what the flags and the preset led to, except what only says where to write and compute.

    Names stand for paths.
    """
    flags, recipe = setup.flags, setup.recipe
    named = {"dataset": flags.dataset, "tokenizer": flags.tokenizer, "init": flags.init}
    return {
        "preset": flags.preset,
        "recipe": flags.recipe,
        "architecture": setup.config.model_type,
        **{name: value and public_name(value) for name, value in named.items()},
        **{name: finite(getattr(recipe, name)) for name in IN_RECIPE},
        "dropout": setup.config.hidden_dropout_prob,
        "planned_steps": setup.total_steps,
        "extended_after": history.extended_after,
        "lr": setup.peak_lr,
        "text_column": flags.text_column,
        "windows": flags.windows,
        "masking": flags.masking,
        "eval_metric": flags.eval_metric,
        "precision": flags.precision,
        "seed": flags.seed,
    }


def finite(value: Any) -> Any:
    """Return `value`, or infinity as a string, because JSON has none.

    >>> finite(math.inf), finite(1.0)
    ('inf', 1.0)
    """
    return str(value) if isinstance(value, float) and math.isinf(value) else value


def write_json(values: dict[str, Any], path: Path) -> None:
    """Write `values` to `path`, whole or not at all. JSON has no infinity or NaN: they raise `ValueError`."""
    with replacing(path) as beside:
        beside.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n", "utf-8")


def gather_runs(root: Path) -> dict[str, dict[str, Any]]:
    """Return variant name -> results of all variants that are finished in `root`, in the table's order."""
    files = {name: root / name / RESULTS_FILE for name in VARIANTS}
    return {name: read_results(file) for name, file in files.items() if file.is_file()}


def read_results(file: Path) -> dict[str, Any]:
    """Return what a run left in `file`. Raises `ResultsError`."""
    try:
        results = json.loads(file.read_text("utf-8"))
    except ValueError as fault:
        raise ResultsError(f"{file} is damaged ({fault}): remove it, and its run is tested again") from None
    if not isinstance(results, dict) or "architecture" not in results.get("settings", {}):
        raise ResultsError(f"{file} is of another version: remove it, and its run is tested again")
    return results


def gather_results(root: Path, latest: dict[str, Any], repository: str | None = None) -> dict[str, Any]:
    """Return the contents of results.json in `root`: the model of the `latest` run, and all runs.

    `repository` is where they are on the Hub.

    The shares of S and K are those of any run that looked at them.
    """
    slug, runs = latest["model_slug"], list(gather_runs(root).values())
    known = lambda key: next((run[key] for run in (latest, *runs) if run[key] is not None), None)
    return {
        "model_name": f"BWSK {slug}",
        "slug": slug,
        "hf_id": repository,
        "arch_family": "transformer",
        "arch_type": "masked_lm",
        "params_m": latest["parameters"] / 1e6,
        "s_ratio": known("parallelism_ratio"),
        "k_ratio": known("erasure_budget"),
        "runs": runs,
        "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "written_by": WRITER,
    }


def is_own_gathering(file: Path) -> bool:
    """Whether `file` holds what `gather_results` returned, so that it may be replaced."""
    try:
        results = json.loads(file.read_bytes())
    except ValueError:
        return False
    return isinstance(results, dict) and results.get("written_by") == WRITER


def _device_peak_mb() -> float | None:
    memory = jax.local_devices()[0].memory_stats()
    return memory["peak_bytes_in_use"] / 1e6 if memory else None


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # run from a checkout
            versions[package] = None
    return versions | {"device": jax.local_devices()[0].device_kind}


def plot_loss(history: History, unigram_perplexity: float, title: str, path: Path) -> None:
    """Write to `path` the training loss, the validation points and the unigram line, all in nats."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    axes.plot(*zip(*history.loss_curve, strict=True), linewidth=0.8, label="training")
    first = [] if history.first_validation is None else [(0, history.first_validation)]
    validations = [*first, *history.val_curve]
    axes.plot(
        [step for step, _ in validations],
        [math.log(value) for _, value in validations],
        "o-",
        markersize=3,
        label="validation",
    )
    axes.axhline(math.log(unigram_perplexity), color="grey", linestyle="--", label="unigram frequencies")
    axes.set(title=title, xlabel="optimizer step", ylabel="masked-LM loss (nats per token)")
    axes.legend()
    with replacing(path) as beside:
        figure.savefig(beside, format="png", dpi=120)
    pyplot.close(figure)
