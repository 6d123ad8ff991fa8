"""The windows that both sides are trained on, and what both do to them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from bwsk_jax import bert
from bwsk_jax.training.step.masking import masked_count
from experiments.steps import MASK_ID

__all__ = ["IGNORED", "Batch", "config_of"]

IGNORED = -100
"""The label of a position that is not to be predicted, as transformers has it."""
FIRST_WORD = 1000


def config_of(preset: str, dropout: float) -> bert.BertConfig:
    """Return a preset with one rate for all of its dropout."""
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return dataclasses.replace(bert.PRESETS[preset], **rates)


@dataclass(frozen=True)
class Batch:
    """Windows of random words [B, T] and the positions [B, M] that are to be predicted."""

    tokens_bt: np.ndarray
    positions_bm: np.ndarray

    @classmethod
    def draw(cls, config: bert.BertConfig, batch_size: int, seq_len: int) -> Batch:
        """Draw a batch; 15% of its positions are to be predicted, each shown as [MASK]."""
        draws = np.random.default_rng(0)
        first = min(FIRST_WORD, config.vocab_size // 2)
        tokens_bt = draws.integers(first, config.vocab_size, (batch_size, seq_len), dtype=np.int32)
        order = np.argsort(draws.random((batch_size, seq_len)), axis=1)
        return cls(tokens_bt, order[:, : masked_count(seq_len)].astype(np.int32))

    @property
    def labels_bm(self) -> np.ndarray:
        """The tokens at the positions."""
        return np.take_along_axis(self.tokens_bt, self.positions_bm, 1)

    @property
    def inputs_bt(self) -> np.ndarray:
        """What the model sees."""
        seen = self.tokens_bt.copy()
        np.put_along_axis(seen, self.positions_bm, MASK_ID, 1)
        return seen

    @property
    def labels_bt(self) -> np.ndarray:
        """The labels of all positions, most of them `IGNORED`."""
        labels = np.full(self.tokens_bt.shape, IGNORED, np.int64)
        np.put_along_axis(labels, self.positions_bm, self.labels_bm, 1)
        return labels
