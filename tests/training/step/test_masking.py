import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bwsk_jax.training.step.masking import draw_positions, draw_substitutes, mask_tokens, masked_count
from tests.support.tiny import MASK_ID, tokens

# Each example has its own shape, for which everything is compiled.
FEW = min(10, settings.default.max_examples)


@settings(deadline=None, max_examples=FEW)
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


def test_another_rate_masks_as_many_as_it_says():
    assert (masked_count(20, 0.4), masked_count(20, 0.01), masked_count(20, 0.99)) == (8, 1, 20)
    assert draw_positions(jax.random.key(0), 3, 20, 0.4).shape == (3, 8)


@settings(deadline=None, max_examples=FEW)
@given(
    windows=st.integers(1, 5),
    seq_len=st.integers(1, 40),
    pieces=st.integers(5, 61),
    seed=st.integers(0, 2**31 - 1),
)
def test_substitutes_stand_at_the_masked_positions_only_and_labels_stay(windows, seq_len, pieces, seed):
    original = tokens(windows, seq_len, seed=seed)
    key = jax.random.key(seed, impl="rbg")
    positions = np.asarray(draw_positions(key, windows, seq_len))
    labels = np.take_along_axis(original, positions, axis=1)
    substitutes = np.asarray(draw_substitutes(key, labels, MASK_ID, pieces))
    inputs, found = map(np.asarray, mask_tokens(original, positions, substitutes))

    np.testing.assert_array_equal(found, labels)
    np.testing.assert_array_equal(np.take_along_axis(inputs, positions, axis=1), substitutes)
    changed = inputs != original
    np.put_along_axis(changed, positions, False, axis=1)
    assert not changed.any()
    assert ((substitutes == labels) | ((substitutes >= 0) & (substitutes < pieces))).all()
    assert substitutes.dtype == labels.dtype == np.int32
    np.testing.assert_array_equal(draw_substitutes(key, labels, MASK_ID, pieces), substitutes)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**31 - 1))
def test_substitutes_are_masks_random_tokens_and_the_token_itself_in_bert_s_shares(seed):
    """The label is outside of the random ids, so that the three cases can be told apart."""
    count, pieces, label = 100_000, 50, 60
    labels = np.full(count, label, np.int32)
    drawn = np.asarray(draw_substitutes(jax.random.key(seed), labels, 55, pieces))
    cases = np.array([np.sum(drawn == 55), np.sum(drawn < pieces), np.sum(drawn == label)])
    assert cases.sum() == count
    np.testing.assert_allclose(cases / count, [0.8, 0.1, 0.1], atol=0.007)  # five standard deviations
    counts = np.bincount(drawn[drawn < pieces], minlength=pieces)
    np.testing.assert_allclose(counts, counts.mean(), rtol=0.5)  # seven standard deviations
