"""Tokens cut into windows, and windows into batches. Host side, numpy int32.

Axes: W windows, T positions, A accumulated micro-batches, B windows per micro-batch.
"""

import itertools
from collections.abc import Iterator

import numpy as np

from bwsk_jax.training.corpus import DatasetError
from bwsk_jax.training.progress import TaskProgress

LINES_PER_BATCH = 4096


def tokenize(tokenizer, text: str, label: str = "text") -> np.ndarray:
    """Return int32 token ids of `text`, without special tokens, line by line.

    Lines go to the tokenizer in batches, which it spreads over the cores (unless TOKENIZERS_PARALLELISM says
    not to); a line on standard error follows a `label` that takes long.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    pieces = [np.zeros(0, np.int32)]
    with TaskProgress(f"tokenising {label}", len(lines)) as progress:
        for start in range(0, len(lines), LINES_PER_BATCH):
            batch = lines[start : start + LINES_PER_BATCH]
            encoded = tokenizer(
                batch,
                add_special_tokens=False,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            )["input_ids"]
            pieces.append(np.fromiter(itertools.chain.from_iterable(encoded), np.int32))
            progress.advance(len(batch))
    return np.concatenate(pieces)


def cut_windows(tokens: np.ndarray, seq_len: int, stride: int, *, split: str) -> np.ndarray:
    """Return int32 [W, T]: the windows of `seq_len` tokens that start every `stride`; the tail is dropped.

    Raises `DatasetError`, naming `split`, when there is not even one.
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
    """Yield int32 [A, B, T]: the windows in an order drawn from (`seed`, `epoch`).

    What is left at the end and does not fill a step is dropped.
    """
    order = np.random.default_rng([seed, epoch]).permutation(len(windows))
    per_step = micro_batches * batch_size
    for start in range(0, len(windows) - per_step + 1, per_step):
        yield windows[order[start : start + per_step]].reshape(micro_batches, batch_size, -1)
