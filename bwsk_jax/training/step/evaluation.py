"""Pseudo-perplexity, and the unigram perplexity that a model has to beat.

Both are exp of a mean cross-entropy over the same masked tokens, so that they compare. [MASK] stands at all
of them, however training masks. Which tokens are masked is a choice between two kinds of held-out text:

- `EvaluationSet` masks 15% of each window at once, at positions drawn from a fixed key. Every validation,
  variant and seed is therefore measured on the same positions. This is the reference's figure.
- `ExactSet` masks every token of the text, one at a time. Salazar et al. 2020, "Masked Language Model
  Scoring" (arXiv:1910.14659): a model's pseudo-perplexity is exp(-mean over all tokens t of log p(t | all the
  other tokens)). Here "all the other tokens" are those of a window of T, as the model was trained on. It
  takes a pass of the model per token, about T / 2 times as long as the other.

Windows may have [CLS] and [SEP] around documents. Neither ever predicts those: the tokens that count are the
text's own, and the exact one predicts the same tokens in windows of either kind.

Axes: N tokens, W windows, T positions, B rows per batch, M masked positions per row.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from bwsk_jax import bert
from bwsk_jax.training.data.windows import Documents, Stream, cut_windows
from bwsk_jax.training.step.masking import draw_positions, is_one_of, masked_lm_loss
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
    """Windows and the positions masked in each: a `HeldOut` with a row per window.

    Positions of `unmasked` ids, which a window has where there are too few others, count nothing.
    """

    tokens_wt: np.ndarray
    positions_wm: np.ndarray
    unmasked: tuple[int, ...] = ()

    @property
    def rows(self) -> int:
        """W."""
        return len(self.tokens_wt)

    @property
    def masked_tokens(self) -> np.ndarray:
        """At most W x M."""
        tokens_wm = np.take_along_axis(self.tokens_wt, self.positions_wm, axis=1)
        return tokens_wm[~np.isin(tokens_wm, self.unmasked)]

    def first(self, rows: int) -> "EvaluationSet":
        """Return the first windows only."""
        return EvaluationSet(self.tokens_wt[:rows], self.positions_wm[:rows], self.unmasked)

    def batch(self, rows_b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the tokens [B, T] and the masked positions [B, M] of some windows."""
        return self.tokens_wt[rows_b], self.positions_wm[rows_b]


def evaluation_set(windows_wt: np.ndarray, unmasked: tuple[int, ...] = ()) -> EvaluationSet:
    """Return `windows_wt` with positions drawn from the fixed key, and none of `unmasked` ids if possible."""
    last_wt = is_one_of(jnp.asarray(windows_wt), unmasked) if unmasked else None
    positions_wm = draw_positions(jax.random.key(MASK_SEED), *windows_wt.shape, last_bt=last_wt)
    return EvaluationSet(windows_wt, np.asarray(positions_wm), unmasked)


class ExactSet(NamedTuple):
    """A stream with N tokens of a text, at least `seq_len` long, as a `HeldOut` with a row per token.

    The windows do not overlap, so that each token counts once. Only the last window is moved back, to end
    where the text ends, so that the tokens of the tail are predicted in a whole window too.

    >>> from bwsk_jax.training.data.windows import Packed
    >>> exact = ExactSet(Packed(np.array([5, 6, 7, 8, 9])), seq_len=3)
    >>> tokens, positions = exact.batch(np.arange(exact.rows))
    >>> tokens.tolist()
    [[5, 6, 7], [5, 6, 7], [5, 6, 7], [7, 8, 9], [7, 8, 9]]
    >>> positions.ravel().tolist()
    [0, 1, 2, 1, 2]
    """

    stream: Stream
    seq_len: int

    @property
    def rows(self) -> int:
        """N."""
        return self.stream.tokens

    @property
    def masked_tokens(self) -> np.ndarray:
        """[N]."""
        return self.stream.text_ids

    def batch(self, rows_b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the windows [B, T] that contain some tokens, and the tokens' positions [B, 1] in them."""
        places_b = self.stream.places(rows_b)
        starts_b = np.minimum(places_b // self.seq_len * self.seq_len, len(self.stream) - self.seq_len)
        windows_bt = starts_b[:, None] + np.arange(self.seq_len)
        return self.stream.take(windows_bt), (places_b - starts_b)[:, None]


class HeldOutSets(NamedTuple):
    """One text as both kinds of held-out text."""

    sampled: EvaluationSet
    exact: ExactSet


def held_out_sets(stream: Stream, seq_len: int, split: str) -> HeldOutSets:
    """Return a text as both kinds of held-out text. The windows of the sampled one are in memory.

    The windows of the sampled one overlap by half. Raises `DatasetError`, which names `split`, if the text is
    shorter than a window.
    """
    windows = cut_windows(stream, seq_len, max(1, seq_len // 2), split=split)
    in_memory = windows[np.arange(len(windows))]
    return HeldOutSets(evaluation_set(in_memory, unmasked_ids(stream)), ExactSet(stream, seq_len))


def unmasked_ids(stream: Stream) -> tuple[int, ...]:
    """Return the ids that stand around the documents of a stream, which are never masked."""
    return (stream.first_id, stream.last_id) if isinstance(stream, Documents) else ()


def make_window_loss(
    config: bert.BertConfig,
    mask_id: int,
    *,
    unmasked: tuple[int, ...] = (),
    dtype=jnp.float32,
    placement: Placement = ONE_DEVICE,
) -> Callable:
    """Return jitted `window_loss(params, tokens_bt, positions_bm) -> loss_b`, without dropout.

    Positions of `unmasked` ids count nothing.

    Where the parameters are placed as `placement` says, it splits the windows, which the host has whole.
    """

    def window_loss(params, tokens_bt, positions_bm):
        tokens_bt, positions_bm = map(placement.constrained_windows, (tokens_bt, positions_bm))
        loss_b = masked_lm_loss(
            config, params, tokens_bt, positions_bm, mask_id, unmasked=unmasked, dtype=dtype
        )
        return placement.everywhere(loss_b)

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


def unigram_perplexity(counts_v: np.ndarray, held_out: HeldOut, vocab_size: int) -> float:
    """Return the perplexity, on `held_out`'s masked tokens, of the training split's token frequencies.

    `counts_v` says how often the training split has each id; those that are missing are 0. The frequencies
    are add-one smoothed: p(v) = (count(v) + 1) / (tokens + V). A model that is no better has learned nothing
    beyond how frequent each token is.
    """
    counts = np.pad(counts_v, (0, max(0, vocab_size - len(counts_v)))) + 1
    return math.exp(-np.log(counts[held_out.masked_tokens] / counts.sum()).mean())
