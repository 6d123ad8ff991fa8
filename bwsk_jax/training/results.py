"""What a run leaves in writing: training_results.json per variant, results.json for all of them."""

import importlib.metadata
import json
import platform
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bwsk_jax import Report
from bwsk_jax.replacing import replacing
from bwsk_jax.training.loop import History
from bwsk_jax.training.measuring import METRIC_NAMES, FinalMetrics
from bwsk_jax.variants import VARIANTS, Variant

RESULTS_FILE = "training_results.json"
PACKAGES = ("bwsk_jax", "jax", "jaxlib", "flax", "optax", "transformers", "tokenizers", "safetensors")


class ResultsError(ValueError):
    """A file of results that cannot be read."""


def training_results(
    *,
    model_slug: str,
    variant: Variant,
    history: History,
    final: FinalMetrics,
    unigram_perplexity: float,
    wall_time_s: float,
    compiled_peak_bytes: int,
    tokens_per_step: int,
    plan: dict[str, Any] | None,
    classification: dict[str, Any] | None,
    parameters: int,
    settings: dict[str, Any],
    command: str,
) -> dict[str, Any]:
    """Return the contents of training_results.json: the reference's keys first, then this project's.

    Memory is in MB of 10^6 bytes. `peak_memory_mb` is what the device reports where it does (a GPU), else
    the compiled peak. `val_metric_name` says what `val_curve` and its least, `best_val_metric`, are;
    `metric_name` what `test_metric` and `final_val_metric` are, the two splits under the exported model.
    `unigram_perplexity` is on the tokens of `best_val_metric`; the two others named so, on those of theirs.
    `erasure_budget` and `parallelism_ratio` are the shares of leaf modules that are K and S as the reference
    counts them; `classification` has all shares, strictly and by that count.
    """
    step_seconds = float(np.median(history.step_seconds))
    compiled_peak_mb = compiled_peak_bytes / 1e6
    return {
        "model_slug": model_slug,
        "experiment": variant.experiment,
        "mode": variant.mode,
        "final_train_loss": history.loss_curve[-1][1],
        "best_val_metric": history.best,
        "test_metric": final.test,
        "metric_name": final.name,
        "epochs_completed": history.epochs_completed,
        "total_steps": history.total_steps,
        "early_stopped": history.early_stopped,
        "wall_time_s": wall_time_s,
        "peak_memory_mb": _device_peak_mb() or compiled_peak_mb,
        "loss_curve": history.loss_curve,
        "val_curve": history.val_curve,
        "nan_count": history.nan_count,
        "erasure_budget": classification and classification["reference"]["modules"]["K"],
        "parallelism_ratio": classification and classification["reference"]["modules"]["S"],
        "val_metric_name": METRIC_NAMES["sampled"],
        "unigram_perplexity": unigram_perplexity,
        "final_val_metric": final.validation,
        "final_val_unigram_perplexity": final.validation_unigram,
        "test_unigram_perplexity": final.test_unigram,
        "compiled_peak_mb": compiled_peak_mb,
        "step_time_ms": step_seconds * 1e3,
        "tokens_per_s": tokens_per_step / step_seconds,
        "plan": plan,
        "classification": classification,
        "parameters": parameters,
        "settings": settings,
        "versions": _versions(),
        "command": command,
    }


def plan_results(plan, *, max_overhead: float | None, max_bytes: int | None) -> dict[str, Any]:
    """Return an encoder layer's plan in numbers and as its table; the limits are as they were asked for."""
    return {
        "saved_bytes": plan.saved_bytes,
        "residual_bytes": plan.residual_bytes,
        "overhead": plan.overhead,
        "fallback_overhead": plan.fallback_overhead,
        "inverted": plan.inverted,
        "max_overhead": None if max_overhead is None else str(max_overhead),  # JSON has no infinity
        "max_bytes": max_bytes,
        "table": str(plan),
    }


def classification_results(reports: Iterable[Report]) -> dict[str, Any]:
    """Return each report's shares of S, ~S and K, by its taxonomy."""
    return {report.taxonomy: report.ratios | {"leaf_modules": report.leaf_modules} for report in reports}


def write_json(values: dict[str, Any], path: Path) -> None:
    """Write `values` to `path`, whole or not at all; an infinity or NaN of ours raises `ValueError`."""
    with replacing(path) as beside:
        beside.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n", "utf-8")


def gather_runs(root: Path) -> dict[str, dict[str, Any]]:
    """Return variant name -> results of every variant finished under `root`, in the table's order."""
    files = {name: root / name / RESULTS_FILE for name in VARIANTS}
    return {name: read_results(file) for name, file in files.items() if file.is_file()}


def read_results(file: Path) -> dict[str, Any]:
    """Return what a run left in `file`. Raises `ResultsError`."""
    try:
        results = json.loads(file.read_text("utf-8"))
    except ValueError as fault:
        raise ResultsError(f"{file} is damaged ({fault}): remove it, and its run is tested again") from None
    if not isinstance(results, dict) or "classification" not in results:
        raise ResultsError(f"{file} is of another version: remove it, and its run is tested again")
    return results


def gather_results(root: Path, latest: dict[str, Any]) -> dict[str, Any]:
    """Return the contents of the root results.json; the model's facts are those of the `latest` run.

    Its ratios are those of any run that looked at them.
    """
    slug, runs = latest["model_slug"], list(gather_runs(root).values())
    known = lambda key: next((run[key] for run in (latest, *runs) if run[key] is not None), None)
    return {
        "model_name": f"BWSK {slug}",
        "slug": slug,
        "hf_id": None,
        "arch_family": "transformer",
        "arch_type": "masked_lm",
        "params_m": latest["parameters"] / 1e6,
        "s_ratio": known("parallelism_ratio"),
        "k_ratio": known("erasure_budget"),
        "runs": runs,
        "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


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
