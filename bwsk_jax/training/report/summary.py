"""What a run prints at its end."""

from typing import Any

from bwsk_jax.training.progress import duration
from bwsk_jax.training.report.loading import loading_snippet, show_loading
from bwsk_jax.training.setup import Setup

LEARNED_NOTHING = (
    "On the validation split the model is no better than the frequencies of the tokens: it has learned "
    "nothing beyond them. Train longer, or try another --lr."
)


def print_summary(setup: Setup, results: dict[str, Any]) -> None:
    """Print the closing table and how to load what was exported."""
    first = results["first_val_metric"]
    rows = {} if first is None else {"validation before training": f"{first:.2f}"}
    rows |= {
        "validation pseudo-perplexity": _beside(results["best_val_metric"], results["unigram_perplexity"]),
        **_final_rows(results),
        "steps": f"{results['total_steps']}{' (stopped early)' if results['early_stopped'] else ''}",
        "skipped steps": f"{results['nan_count']} (not finite)",
        "step time": f"{results['step_time_ms']:.1f} ms",
        "throughput": f"{results['tokens_per_s']:,.0f} tokens/s",
        "compiled peak": f"{results['compiled_peak_mb']:.1f} MB",
        "wall time": duration(results["wall_time_s"]),
    }
    if results["plan"]:
        plan = results["plan"]
        rows["saved per layer"] = f"{plan['saved_bytes']:,} of {plan['residual_bytes']:,} bytes"
        rows["overhead"] = f"{plan['overhead']:.2%} of a step, {plan['inverted']} inverses"
    width = max(map(len, rows))
    print(f"\n{setup.variant.name}, {setup.model_slug}, exported to {setup.folder}")
    for name, value in rows.items():
        print(f"  {name:<{width}}  {value}")
    if results["final_val_metric"] >= results["final_val_unigram_perplexity"]:
        print(f"  {LEARNED_NOTHING}")
    print(f"\n{show_loading(setup.folder, setup.tokenizer.decode(setup.validation.tokens_wt[0]))}")
    print(f"\n{loading_snippet(str(setup.root), setup.variant.name)}")


def _final_rows(results: dict[str, Any]) -> dict[str, str]:
    test = _beside(results["test_metric"], results["test_unigram_perplexity"])
    if results["metric_name"] == results["val_metric_name"]:
        return {"test pseudo-perplexity": test}
    validation = _beside(results["final_val_metric"], results["final_val_unigram_perplexity"])
    return {"exact validation": validation, "exact test": test}


def _beside(perplexity: float, unigram_perplexity: float) -> str:
    return f"{perplexity:.2f} (unigram frequencies: {unigram_perplexity:.2f})"
