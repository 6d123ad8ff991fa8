"""Token ids as windows, and windows put together into batches: numpy arrays on the host.

The token ids stay on disk, mapped into memory. A window is gathered when it is asked for, so that neither
cutting nor shuffling makes a copy. There are two ways to lay the documents of a text side by side, and
windows are cut from either in the same way:

- `Packed` has nothing between them: the end of one is followed by the beginning of the next.
- `Documents` has [CLS] before and [SEP] after each. No place is wasted on padding: short documents share a
  window, and a long one goes on in the next.

Axes: W windows, T positions, A accumulated micro-batches, B windows per micro-batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from bwsk_jax.training.data.text import DatasetError
from bwsk_jax.training.data.tokens import Tokens
from bwsk_jax.training.recipe import Recipe

# Any three ids in a row have one that does not stand around documents.
SHORTEST_OF_DOCUMENTS = 3


class Stream(Protocol):
    """A text as one long sequence of token ids."""

    def __len__(self) -> int: ...

    @property
    def tokens(self) -> int:
        """How many of the ids are the text's own."""
        ...

    @property
    def text_ids(self) -> np.ndarray:
        """The text's own ids."""
        ...

    def take(self, places: np.ndarray) -> np.ndarray:
        """Return int32, of the shape of `places`: the ids there."""
        ...

    def places(self, numbers: np.ndarray) -> np.ndarray:
        """Return where those of the text's own tokens stand that have these numbers, counted from 0."""
        ...


@dataclass(frozen=True)
class Packed:
    """The tokens of a text, one document after the other.

    >>> Packed(np.array([5, 6, 7])).take(np.array([[0, 2]])).tolist()
    [[5, 7]]
    """

    text_ids: np.ndarray

    def __len__(self) -> int:
        return len(self.text_ids)

    @property
    def tokens(self) -> int:
        """How many there are."""
        return len(self.text_ids)

    def take(self, places: np.ndarray) -> np.ndarray:
        """Return the ids at `places`."""
        return self.text_ids[places].astype(np.int32, copy=False)

    def places(self, numbers: np.ndarray) -> np.ndarray:
        """Return `numbers`."""
        return numbers


@dataclass(frozen=True)
class Documents:
    """The tokens of a text, with `first_id` before and `last_id` after each document.

    `ends` [D] says at which token each document ends; none is empty.

    >>> stream = Documents(np.array([5, 6, 7]), np.array([1, 3]), first_id=2, last_id=3)
    >>> stream.take(np.arange(len(stream))).tolist(), stream.places(np.arange(3)).tolist()
    ([2, 5, 3, 2, 6, 7, 3], [1, 4, 5])
    """

    text_ids: np.ndarray
    ends: np.ndarray
    first_id: int
    last_id: int

    def __len__(self) -> int:
        return len(self.text_ids) + 2 * len(self.ends)

    @property
    def tokens(self) -> int:
        """How many there are without those that stand around documents."""
        return len(self.text_ids)

    def take(self, places: np.ndarray) -> np.ndarray:
        """Return the ids at `places`."""
        before = self._documents_before(places, around=2)
        inside = places - 2 * before - self._starts(before)
        length = self.ends[before] - self._starts(before)
        number = self._starts(before) + np.clip(inside - 1, 0, length - 1)
        ids = np.where(
            inside == 0, self.first_id, np.where(inside > length, self.last_id, self.text_ids[number])
        )
        return ids.astype(np.int32)

    def places(self, numbers: np.ndarray) -> np.ndarray:
        """Return where the tokens stand: after the [CLS] and [SEP] of the documents before, and a [CLS]."""
        return numbers + 2 * self._documents_before(numbers, around=0) + 1

    def _starts(self, documents: np.ndarray) -> np.ndarray:
        return np.where(documents == 0, 0, self.ends[np.maximum(documents - 1, 0)])

    def _documents_before(self, places: np.ndarray, around: int) -> np.ndarray:
        """Return how many documents end at or before `places`, where each is `around` longer than its tokens.

        It is a bisection, on all places at once: the ends with what stands around are an array of their own
        nowhere.
        """
        low = np.zeros(np.shape(places), np.int64)
        high = np.full(np.shape(places), len(self.ends), np.int64)
        while (open_ := low < high).any():
            middle = np.minimum((low + high) // 2, len(self.ends) - 1)
            ended = self.ends[middle] + around * (middle + 1) <= places
            low = np.where(open_ & ended, middle + 1, low)
            high = np.where(open_ & ~ended, middle, high)
        return low


def around_documents(kind: str, tokenizer: Any, seq_len: int, name: str) -> tuple[int, ...]:
    """Return the ids that windows of a kind, "packed" or "documents", have around documents: two, or none.

    Raises `DatasetError` for a tokenizer, called `name`, that has none for documents, and for windows that
    could have nothing else.
    """
    if kind == "packed":
        return ()
    around = (tokenizer.cls_token_id, tokenizer.sep_token_id)
    if None in around:
        raise DatasetError(f"--windows documents: the tokenizer of {name} has no [CLS] or no [SEP]")
    if seq_len < SHORTEST_OF_DOCUMENTS:
        raise DatasetError(f"--windows documents needs a --seq-len of at least {SHORTEST_OF_DOCUMENTS}")
    return around


def stream_of(tokens: Tokens, around: tuple[int, ...]) -> Stream:
    """Return a text as a stream: with the two ids `around` each document, or packed if there are none."""
    return Documents(tokens.ids, tokens.ends, *around) if around else Packed(tokens.ids)


@dataclass(frozen=True)
class Windows:
    """[W, T]: windows of `seq_len` ids of a stream, one starting every `stride`. The tail is dropped.

    >>> windows = Windows(Packed(np.arange(7)), seq_len=3, stride=2)
    >>> len(windows), windows[np.array([2, 0])].tolist()
    (3, [[4, 5, 6], [0, 1, 2]])
    """

    stream: Stream
    seq_len: int
    stride: int

    def __len__(self) -> int:
        return (len(self.stream) - self.seq_len) // self.stride + 1

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return self.stream.take(rows[:, None] * self.stride + np.arange(self.seq_len))

    def blocks(self, rows: int = 1024) -> Iterator[np.ndarray]:
        """Yield all windows in order, `rows` at a time."""
        for start in range(0, len(self), rows):
            yield self[np.arange(start, min(start + rows, len(self)))]


def cut_windows(stream: Stream, seq_len: int, stride: int, *, split: str) -> Windows:
    """Return the windows of a stream, of which there is at least one.

    Raises `DatasetError`, which names `split`, if the tokens are fewer than one window.
    """
    if len(stream) < seq_len:
        raise DatasetError(
            f"the {split} text has {len(stream)} tokens, fewer than one window of {seq_len}: "
            "give more text or a smaller --seq-len"
        )
    return Windows(stream, seq_len, stride)


def epoch_rows(
    windows: int, micro_batches: int, batch_size: int, *, seed: int, epoch: int
) -> Iterator[np.ndarray]:
    """Yield [A, B], the numbers of a step's windows at a time, in an order drawn from (`seed`, `epoch`).

    Windows at the end that are too few for a step are dropped.
    """
    order = np.random.default_rng([seed, epoch]).permutation(windows)
    per_step = micro_batches * batch_size
    for start in range(0, windows - per_step + 1, per_step):
        yield order[start : start + per_step].reshape(micro_batches, batch_size)


def steps_per_epoch(windows: int, recipe: Recipe) -> int:
    """Return how many optimizer steps one pass over `windows` takes; what does not fill a step is dropped."""
    return windows // (recipe.batch_size * recipe.grad_accum)
