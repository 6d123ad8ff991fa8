"""Every token of a text masked, one at a time.

Salazar et al. 2020, "Masked Language Model Scoring" (arXiv:1910.14659): a model's pseudo-perplexity is
exp(-mean over all tokens t of log p(t | all the other tokens)). Here "all the other tokens" are those of a
window of T, as the model was trained on, without [CLS] and [SEP]. It takes a pass per token: about T / 2
times as long as the masks of `evaluation`, which hide 15% at once from overlapping windows.

Axes: N tokens, T positions, B rows per batch.
"""

from typing import NamedTuple

import numpy as np


class ExactSet(NamedTuple):
    """A text of N tokens, at least `seq_len`, as a `HeldOut` with a row per token.

    Windows stand side by side and each token counts once. The last window is moved back to end with the
    text: the tail is counted too, each of its tokens seen in a whole window.

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
        """Return the windows [B, T] that some tokens stand in, and the tokens' positions [B, 1] there."""
        starts_b = np.minimum(rows_b // self.seq_len * self.seq_len, self.rows - self.seq_len)
        windows_bt = starts_b[:, None] + np.arange(self.seq_len)
        return self.tokens[windows_bt], (rows_b - starts_b)[:, None]
