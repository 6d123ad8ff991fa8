"""The loss curve as a picture."""

import math
from pathlib import Path

from bwsk_jax.replacing import replacing
from bwsk_jax.training.loop import History


def plot_loss(history: History, unigram_perplexity: float, title: str, path: Path) -> None:
    """Write to `path` the training loss, the validation points and the unigram line, all in nats."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    axes.plot(*zip(*history.loss_curve, strict=True), linewidth=0.8, label="training")
    axes.plot(
        [step for step, _ in history.val_curve],
        [math.log(value) for _, value in history.val_curve],
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
