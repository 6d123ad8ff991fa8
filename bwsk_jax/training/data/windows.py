"""Token ids cut into windows, and windows put together into batches: numpy arrays on the host.

Axes: W windows, T positions, A accumulated micro-batches, B windows per micro-batch.
"""

from collections.abc import Iterator

import numpy as np

from bwsk_jax.training.data.text import DatasetError
from bwsk_jax.training.recipe import Recipe


def cut_windows(tokens: np.ndarray, seq_len: int, stride: int, *, split: str) -> np.ndarray:
    """Return int32 [W, T]: windows of `seq_len` tokens, one starting every `stride`. The tail is dropped.

    Raises `DatasetError`, which names `split`, if the tokens are fewer than one window.
    """
    if len(tokens) < seq_len:
        raise DatasetError(
            f"the {split} text has {len(tokens)} tokens, fewer than one window of {seq_len}: "
            "give more text or a smaller --seq-len"
        )
    windows = np.lib.stride_tricks.sliding_window_view(tokens, seq_len)[::stride]
    return np.ascontiguousarray(windows)


def epoch_batches(
    windows: np.ndarray, micro_batches: int, batch_size: int, *, seed: int, epoch: int
) -> Iterator[np.ndarray]:
    """Yield int32 [A, B, T], a step's windows at a time, in an order drawn from (`seed`, `epoch`).

    Windows at the end that are too few for a step are dropped.
    """
    order = np.random.default_rng([seed, epoch]).permutation(len(windows))
    per_step = micro_batches * batch_size
    for start in range(0, len(windows) - per_step + 1, per_step):
        yield windows[order[start : start + per_step]].reshape(micro_batches, batch_size, -1)


def steps_per_epoch(windows: int, recipe: Recipe) -> int:
    """Return how many optimizer steps one pass over `windows` takes; what does not fill a step is dropped."""
    return windows // (recipe.batch_size * recipe.grad_accum)
