import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bwsk_jax.training.data.text import DatasetError
from bwsk_jax.training.data.windows import cut_windows, epoch_batches


@given(count=st.integers(1, 200), seq_len=st.integers(1, 30), stride=st.integers(1, 30))
def test_windows_start_every_stride_and_are_whole(count, seq_len, stride):
    tokens = np.arange(count, dtype=np.int32)
    if count < seq_len:
        with pytest.raises(DatasetError, match="the test text has"):
            cut_windows(tokens, seq_len, stride, split="test")
        return
    windows = cut_windows(tokens, seq_len, stride, split="test")
    expected = [tokens[start : start + seq_len] for start in range(0, count - seq_len + 1, stride)]
    np.testing.assert_array_equal(windows, expected)
    assert windows.dtype == np.int32


@given(windows=st.integers(1, 40), micro=st.integers(1, 3), size=st.integers(1, 4), seed=st.integers(0, 99))
def test_an_epoch_shows_each_window_at_most_once(windows, micro, size, seed):
    rows = np.arange(windows, dtype=np.int32)[:, None]
    batches = list(epoch_batches(rows, micro, size, seed=seed, epoch=1))
    assert len(batches) == windows // (micro * size)
    assert all(batch.shape == (micro, size, 1) for batch in batches)
    seen = [int(token) for batch in batches for token in batch.ravel()]
    assert len(seen) == len(set(seen)) and set(seen) <= set(range(windows))


def test_order_depends_on_seed_and_epoch_only():
    rows = np.arange(50, dtype=np.int32)[:, None]

    def order(seed, epoch):
        return np.concatenate(list(epoch_batches(rows, 1, 5, seed=seed, epoch=epoch))).ravel().tolist()

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1) != order(1, 0) != order(0, 0)
