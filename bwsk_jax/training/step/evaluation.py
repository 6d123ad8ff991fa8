"""Pseudo-perplexity, and the unigram perplexity that a model has to beat.

Both are exp of a mean cross-entropy over the same masked tokens, so that they compare. [MASK] stands at all
of them, however training masks. Which tokens are masked is a choice between two kinds of held-out text:

- `EvaluationSet` masks 15% of each window at once, at positions drawn from a fixed key. Every validation,
  variant and seed is therefore measured on the same positions. This is the reference's figure.
- `ExactSet` masks every token of the text, one at a time. Salazar et al. 2020, "Masked Language Model
  Scoring" (arXiv:1910.14659): a model's pseudo-perplexity is exp(-mean over all tokens t of log p(t | all the
  other tokens)). Here "all the other tokens" are those of a window of T, as the model was trained on, without
  [CLS] and [SEP]. It takes a pass of the model per token, about T / 2 times as long as the other.

Axes: N tokens, W windows, T positions, B rows per batch, M masked positions per row.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from bwsk_jax import bert
from bwsk_jax.training.data.windows import cut_windows
from bwsk_jax.training.step.masking import draw_positions, masked_lm_loss
from bwsk_jax.training.step.placement import ONE_DEVICE, Placement

MASK_SEED = 0


class HeldOut(Protocol):
    """Held-out text as rows: a row is a window of which some positions are masked."""

    @property
    def rows(self) -> int:
        """How many there are."""
        ...

    @property
    def masked_tokens(self) -> np.ndarray:
        """The tokens that are to be predicted, of all rows, in any shape."""
        ...

    def batch(self, rows_b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the tokens [B, T] and the masked positions [B, M] of some rows."""
        ...


class EvaluationSet(NamedTuple):
    """Windows and the positions masked in each: a `HeldOut` with a row per window."""

    tokens_wt: np.ndarray
    positions_wm: np.ndarray

    @property
    def rows(self) -> int:
        """W."""
        return len(self.tokens_wt)

    @property
    def masked_tokens(self) -> np.ndarray:
        """[W, M]."""
        return np.take_along_axis(self.tokens_wt, self.positions_wm, axis=1)

    def batch(self, rows_b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the tokens [B, T] and the masked positions [B, M] of some windows."""
        return self.tokens_wt[rows_b], self.positions_wm[rows_b]


def evaluation_set(windows_wt: np.ndarray) -> EvaluationSet:
    """Return `windows_wt` with positions drawn from the fixed key."""
    return EvaluationSet(windows_wt, np.asarray(draw_positions(jax.random.key(MASK_SEED), *windows_wt.shape)))


class ExactSet(NamedTuple):
    """A text of N tokens, at least `seq_len`, as a `HeldOut` with a row per token.

    The windows do not overlap, so that each token counts once. Only the last window is moved back, to end
    where the text ends, so that the tokens of the tail are predicted in a whole window too.

    >>> exact = ExactSet(np.array([5, 6, 7, 8, 9]), seq_len=3)
    >>> tokens, positions = exact.batch(np.arange(exact.rows))
    >>> tokens.tolist()
    [[5, 6, 7], [5, 6, 7], [5, 6, 7], [7, 8, 9], [7, 8, 9]]
    >>> positions.ravel().tolist()
    [0, 1, 2, 1, 2]
    """

    tokens: np.ndarray
    seq_len: int

    @property
    def rows(self) -> int:
        """N."""
        return len(self.tokens)

    @property
    def masked_tokens(self) -> np.ndarray:
        """[N]."""
        return self.tokens

    def batch(self, rows_b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the windows [B, T] that contain some tokens, and the tokens' positions [B, 1] in them."""
        starts_b = np.minimum(rows_b // self.seq_len * self.seq_len, self.rows - self.seq_len)
        windows_bt = starts_b[:, None] + np.arange(self.seq_len)
        return self.tokens[windows_bt], (rows_b - starts_b)[:, None]


class HeldOutSets(NamedTuple):
    """One text as both kinds of held-out text."""

    sampled: EvaluationSet
    exact: ExactSet


def held_out_sets(tokens: np.ndarray, seq_len: int, split: str) -> HeldOutSets:
    """Return a text of N tokens as both kinds of held-out text.

    The windows of the sampled one overlap by half. Raises `DatasetError`, which names `split`, if the text is
    shorter than a window.
    """
    windows = cut_windows(tokens, seq_len, max(1, seq_len // 2), split=split)
    return HeldOutSets(evaluation_set(windows), ExactSet(tokens, seq_len))


def make_window_loss(
    config: bert.BertConfig, mask_id: int, *, dtype=jnp.float32, placement: Placement = ONE_DEVICE
) -> Callable:
    """Return jitted `window_loss(params, tokens_bt, positions_bm) -> loss_b`, without dropout.

    Where the parameters are placed as `placement` says, it splits the windows, which the host has whole.
    """

    def window_loss(params, tokens_bt, positions_bm):
        tokens_bt, positions_bm = map(placement.constrained_windows, (tokens_bt, positions_bm))
        return masked_lm_loss(config, params, tokens_bt, positions_bm, mask_id, dtype=dtype)

    return jax.jit(window_loss)


def pseudo_perplexity(
    window_loss: Callable,
    params,
    held_out: HeldOut,
    batch_size: int,
    report: Callable[[int], None] = lambda rows: None,
) -> float:
    """Return exp(mean over the rows of `held_out` of the masked-LM loss), infinity if that is beyond floats.

    The last batch is filled up with the first rows, whose losses are then left out, so that only one shape is
    compiled. After each batch, `report` is told how many rows it had; the device is at most one batch behind.
    """
    losses = []
    for start in range(0, held_out.rows, batch_size):
        rows = np.arange(start, start + batch_size) % held_out.rows
        losses.append(window_loss(params, *held_out.batch(rows)))
        losses[-2:][0].block_until_ready()
        report(min(batch_size, held_out.rows - start))
    with np.errstate(over="ignore"):
        return float(np.exp(np.concatenate(losses)[: held_out.rows].mean(dtype=np.float64)))


def unigram_perplexity(train_tokens: np.ndarray, held_out: HeldOut, vocab_size: int) -> float:
    """Return the perplexity, on `held_out`'s masked tokens, of the training split's token frequencies.

    The frequencies are add-one smoothed: p(v) = (count(v) + 1) / (tokens + V). A model that is no better has
    learned nothing beyond how frequent each token is.
    """
    counts = np.bincount(train_tokens, minlength=vocab_size) + 1
    return math.exp(-np.log(counts[held_out.masked_tokens] / counts.sum()).mean())
