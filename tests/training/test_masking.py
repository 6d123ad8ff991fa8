import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import MASK_ID, tokens

from bwsk_jax.training.masking import draw_positions, mask_tokens, masked_count


@settings(deadline=None, max_examples=10)
@given(windows=st.integers(1, 5), seq_len=st.integers(1, 40), seed=st.integers(0, 2**31 - 1))
def test_masking_hides_a_fixed_number_of_distinct_positions_and_nothing_else(windows, seq_len, seed):
    original = tokens(windows, seq_len, seed=seed)
    positions = draw_positions(jax.random.key(seed), windows, seq_len)
    inputs, labels = map(np.asarray, mask_tokens(original, positions, MASK_ID))

    hidden = inputs == MASK_ID
    assert positions.shape == labels.shape == (windows, masked_count(seq_len))
    np.testing.assert_array_equal(hidden.sum(axis=1), masked_count(seq_len))
    np.testing.assert_array_equal(inputs[~hidden], original[~hidden])
    np.testing.assert_array_equal(labels, np.take_along_axis(original, np.asarray(positions), axis=1))


def test_every_position_is_masked_about_equally_often():
    positions = draw_positions(jax.random.key(0), 20_000, 20)
    frequencies = np.bincount(np.ravel(positions), minlength=20) / 20_000
    np.testing.assert_allclose(frequencies, 0.15, atol=0.01)
