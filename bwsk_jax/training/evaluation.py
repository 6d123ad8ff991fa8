"""Pseudo-perplexity on fixed masks, and the unigram perplexity that it has to beat.

Both are exp of a mean cross-entropy over the same masked tokens, so that they compare. Masks come from a
fixed key: every validation, variant and seed is measured on the same positions. [MASK] stands at all of them,
however training masks.

Axes: W windows, T positions, B windows per batch, M masked positions per window.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bwsk_jax import bert
from bwsk_jax.training.masking import draw_positions
from bwsk_jax.training.objective import masked_lm_loss

MASK_SEED = 0


class EvaluationSet(NamedTuple):
    """Windows and the positions masked in each."""

    tokens_wt: np.ndarray
    positions_wm: np.ndarray


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


def pseudo_perplexity(window_loss: Callable, params, held_out: EvaluationSet, batch_size: int) -> float:
    """Return exp(mean over windows of the masked-LM loss).

    This is the reference's figure, not the one-token-at-a-time pseudo-perplexity of Salazar et al. (2020).
    The last batch is filled up with the first windows, whose losses are then left out, so that one shape
    is compiled.
    """
    windows = len(held_out.tokens_wt)
    losses = []
    for start in range(0, windows, batch_size):
        rows = np.arange(start, start + batch_size) % windows
        losses.append(window_loss(params, held_out.tokens_wt[rows], held_out.positions_wm[rows]))
    return math.exp(np.concatenate(losses)[:windows].mean(dtype=np.float64))


def unigram_perplexity(train_tokens: np.ndarray, held_out: EvaluationSet, vocab_size: int) -> float:
    """Return the perplexity, on `held_out`'s masked tokens, of the training split's token frequencies.

    Add-one smoothed: p(v) = (count(v) + 1) / (tokens + V). A model that stays here has learned nothing
    beyond how frequent each token is.
    """
    counts = np.bincount(train_tokens, minlength=vocab_size) + 1
    masked = np.take_along_axis(held_out.tokens_wt, held_out.positions_wm, axis=1)
    return math.exp(-np.log(counts[masked] / counts.sum()).mean())
