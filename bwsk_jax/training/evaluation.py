"""Pseudo-perplexity, by default on fixed masks, and the unigram perplexity that it has to beat.

Both are exp of a mean cross-entropy over the same masked tokens, so that they compare. Masks come from a
fixed key: every validation, variant and seed is measured on the same positions. [MASK] stands at all of
them, however training masks. That is the reference's figure; `exact` masks every token, one at a time.

Axes: W windows, T positions, B rows per batch, M masked positions per row.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from bwsk_jax import bert
from bwsk_jax.training.masking import draw_positions
from bwsk_jax.training.objective import masked_lm_loss

MASK_SEED = 0


class HeldOut(Protocol):
    """Text as rows, each a window of which some positions are masked."""

    @property
    def rows(self) -> int:
        """How many there are."""

    @property
    def masked_tokens(self) -> np.ndarray:
        """The tokens of all rows that are to be predicted, in any shape."""

    def batch(self, rows_b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the tokens [B, T] and the masked positions [B, M] of some rows."""


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


def make_window_loss(config: bert.BertConfig, mask_id: int, *, dtype=jnp.float32) -> Callable:
    """Return jitted `window_loss(params, tokens_bt, positions_bm) -> loss_b`, without dropout."""
    return jax.jit(
        lambda params, tokens_bt, positions_bm: masked_lm_loss(
            config, params, tokens_bt, positions_bm, mask_id, dtype=dtype
        )
    )


def pseudo_perplexity(
    window_loss: Callable,
    params,
    held_out: HeldOut,
    batch_size: int,
    report: Callable[[int], None] = lambda rows: None,
) -> float:
    """Return exp(mean over the rows of `held_out` of the masked-LM loss).

    The last batch is filled up with the first rows, whose losses are then left out, so that one shape is
    compiled. `report` is told of every batch how many rows it had, the device being at most one behind.
    """
    losses = []
    for start in range(0, held_out.rows, batch_size):
        rows = np.arange(start, start + batch_size) % held_out.rows
        losses.append(window_loss(params, *held_out.batch(rows)))
        losses[-2:][0].block_until_ready()
        report(min(batch_size, held_out.rows - start))
    return math.exp(np.concatenate(losses)[: held_out.rows].mean(dtype=np.float64))


def unigram_perplexity(train_tokens: np.ndarray, held_out: HeldOut, vocab_size: int) -> float:
    """Return the perplexity, on `held_out`'s masked tokens, of the training split's token frequencies.

    Add-one smoothed: p(v) = (count(v) + 1) / (tokens + V). A model that stays here has learned nothing
    beyond how frequent each token is.
    """
    counts = np.bincount(train_tokens, minlength=vocab_size) + 1
    return math.exp(-np.log(counts[held_out.masked_tokens] / counts.sum()).mean())
