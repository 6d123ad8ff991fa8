"""Windows are gathered from a stream, packed or of documents, as slices of the whole stream would be."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bwsk_jax.training.data.text import DatasetError
from bwsk_jax.training.data.windows import (
    Documents,
    Packed,
    around_documents,
    cut_windows,
    epoch_rows,
)

CLS, SEP = 2, 3


def all_of(windows):
    return windows[np.arange(len(windows))]


@given(count=st.integers(1, 200), seq_len=st.integers(1, 30), stride=st.integers(1, 30))
def test_windows_start_every_stride_and_are_whole(count, seq_len, stride):
    tokens = np.arange(count, dtype=np.uint16)
    if count < seq_len:
        with pytest.raises(DatasetError, match="the test text has"):
            cut_windows(Packed(tokens), seq_len, stride, split="test")
        return
    windows = cut_windows(Packed(tokens), seq_len, stride, split="test")
    expected = [tokens[start : start + seq_len] for start in range(0, count - seq_len + 1, stride)]
    np.testing.assert_array_equal(all_of(windows), expected)
    np.testing.assert_array_equal(np.concatenate(list(windows.blocks(3))), expected)
    assert all_of(windows).dtype == np.int32


lengths = st.lists(st.integers(1, 40), min_size=1, max_size=30)


@given(lengths=lengths, seq_len=st.integers(1, 20), stride=st.integers(1, 20))
def test_documents_stand_between_cls_and_sep(lengths, seq_len, stride):
    ids = np.arange(10, 10 + sum(lengths), dtype=np.uint16)
    ends = np.cumsum(lengths)
    stream = Documents(ids, ends, CLS, SEP)
    written = []
    for document in np.split(ids, ends[:-1]):
        written += [CLS, *document.tolist(), SEP]
    assert len(stream) == len(written) and stream.tokens == len(ids)
    assert stream.take(np.arange(len(stream))).tolist() == written
    np.testing.assert_array_equal(np.array(written)[stream.places(np.arange(len(ids)))], ids)
    if len(written) >= seq_len:
        windows = cut_windows(stream, seq_len, stride, split="test")
        expected = [
            written[start : start + seq_len] for start in range(0, len(written) - seq_len + 1, stride)
        ]
        np.testing.assert_array_equal(all_of(windows), expected)
        assert all_of(windows).dtype == np.int32


class Words:
    cls_token_id, sep_token_id = CLS, SEP


def test_what_stands_around_documents_is_the_tokenizer_s():
    assert around_documents("packed", object(), 1, "t") == ()
    assert around_documents("documents", Words(), 3, "t") == (CLS, SEP)
    with pytest.raises(DatasetError, match="--windows documents needs a --seq-len of at least 3"):
        around_documents("documents", Words(), 2, "t")
    Words.sep_token_id = None
    with pytest.raises(
        DatasetError, match=r"--windows documents: the tokenizer of t has no \[CLS\] or no \[SEP\]"
    ):
        around_documents("documents", Words(), 3, "t")


@given(windows=st.integers(1, 40), micro=st.integers(1, 3), size=st.integers(1, 4), seed=st.integers(0, 99))
def test_an_epoch_shows_each_window_at_most_once(windows, micro, size, seed):
    batches = list(epoch_rows(windows, micro, size, seed=seed, epoch=1))
    assert len(batches) == windows // (micro * size)
    assert all(batch.shape == (micro, size) for batch in batches)
    seen = [int(row) for batch in batches for row in batch.ravel()]
    assert len(seen) == len(set(seen)) and set(seen) <= set(range(windows))


def test_order_depends_on_seed_and_epoch_only():
    def order(seed, epoch):
        return np.concatenate(list(epoch_rows(50, 1, 5, seed=seed, epoch=epoch))).ravel().tolist()

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1) != order(1, 0) != order(0, 0)
