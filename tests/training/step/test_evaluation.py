import math
from collections import Counter

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bwsk_jax import bert
from bwsk_jax.training.data.windows import Documents, Packed
from bwsk_jax.training.step.evaluation import (
    ExactSet,
    evaluation_set,
    held_out_sets,
    make_window_loss,
    pseudo_perplexity,
    unigram_perplexity,
)
from tests.support.tiny import CONFIG, MASK_ID, params, tokens


def test_pseudo_perplexity_is_that_of_a_numpy_computation_whatever_the_batch_size():
    weights = params()
    held_out = evaluation_set(tokens(7, 16))
    inputs = held_out.tokens_wt.copy()
    np.put_along_axis(inputs, held_out.positions_wm, MASK_ID, axis=1)
    all_logits = np.asarray(bert.forward(CONFIG, weights, inputs), np.float64)
    losses = []
    for window, positions, logits in zip(*held_out[:2], all_logits, strict=True):
        log_probs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        losses.append(-np.mean([log_probs[position, window[position]] for position in positions]))
    expected = math.exp(np.mean(losses))

    window_loss = make_window_loss(CONFIG, MASK_ID)
    for batch_size in (3, 20):
        actual = pseudo_perplexity(window_loss, weights, held_out, batch_size)
        np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("loss", "expected"), [(800.0, math.inf), (math.inf, math.inf), (math.nan, math.nan)]
)
def test_a_loss_beyond_all_bounds_has_a_perplexity_that_is_not_finite(loss, expected):
    window_loss = lambda params, tokens_bt, positions_bm: jax.numpy.full(len(tokens_bt), loss)
    value = pseudo_perplexity(window_loss, None, evaluation_set(tokens(3, 16)), 2)
    np.testing.assert_equal(value, expected)


def test_evaluation_masks_are_always_the_same():
    windows = tokens(5, 16)
    np.testing.assert_array_equal(evaluation_set(windows).positions_wm, evaluation_set(windows).positions_wm)


def test_unigram_perplexity_is_that_of_smoothed_counts():
    train = tokens(300, seed=1)
    held_out = evaluation_set(tokens(5, 16))
    counts = Counter(train.tolist())
    total = len(train) + CONFIG.vocab_size
    log_probs = [
        math.log((counts[int(window[position])] + 1) / total)
        for window, positions in zip(*held_out[:2], strict=True)
        for position in positions
    ]
    np.testing.assert_allclose(
        unigram_perplexity(np.bincount(train), held_out, CONFIG.vocab_size),
        math.exp(-np.mean(log_probs)),
        rtol=1e-12,
    )


def test_uniform_predictions_have_the_vocabulary_as_perplexity():
    """With all parameters 0 the logits are 0."""
    weights = jax.tree.map(np.zeros_like, params())
    window_loss = make_window_loss(CONFIG, MASK_ID)
    value = pseudo_perplexity(window_loss, weights, evaluation_set(tokens(3, 16)), 2)
    np.testing.assert_allclose(value, CONFIG.vocab_size, rtol=1e-5)


SEQ_LEN = 12


@given(seq_len=st.integers(1, 9), extra=st.integers(0, 40))
def test_each_token_of_the_text_is_masked_once_in_a_whole_window(seq_len, extra):
    text = np.arange(seq_len + extra, dtype=np.int32)
    exact = ExactSet(Packed(text), seq_len)
    windows, positions = exact.batch(np.arange(exact.rows))
    assert windows.shape == (len(text), seq_len) and positions.shape == (len(text), 1)
    np.testing.assert_array_equal(np.take_along_axis(windows, positions, axis=1)[:, 0], text)
    np.testing.assert_array_equal(np.diff(windows, axis=1), 1)
    starts = set(windows[:, 0].tolist())
    assert starts == {*range(0, extra + 1, seq_len), extra}


@pytest.mark.parametrize("count", [3 * SEQ_LEN, 3 * SEQ_LEN + 5])
def test_it_is_what_transformers_gives_one_position_at_a_time(tmp_path, count):
    torch = pytest.importorskip("torch")
    from transformers import BertForMaskedLM

    weights, text = jax.tree.map(lambda leaf: 3 * leaf, params()), tokens(count)
    bert.save_pretrained(tmp_path, CONFIG, weights)
    model = BertForMaskedLM.from_pretrained(tmp_path).eval()
    losses = []
    for place in range(count):
        start = place // SEQ_LEN * SEQ_LEN
        window = torch.tensor(text[start : start + SEQ_LEN], dtype=torch.long)
        if len(window) < SEQ_LEN:
            start, window = count - SEQ_LEN, torch.tensor(text[-SEQ_LEN:], dtype=torch.long)
        window[place - start] = MASK_ID
        with torch.no_grad():
            log_p = torch.log_softmax(model(window[None]).logits[0, place - start].double(), dim=-1)
        losses.append(-log_p[int(text[place])].item())

    window_loss = make_window_loss(CONFIG, MASK_ID)
    reported = []
    for batch_size in (1, 8, 100):
        value = pseudo_perplexity(
            window_loss, weights, ExactSet(Packed(text), SEQ_LEN), batch_size, reported.append
        )
        np.testing.assert_allclose(math.log(value), np.mean(losses), rtol=1e-5)
    assert sum(reported) == 3 * count


def test_the_unigram_perplexity_beside_it_is_over_all_tokens():
    train, text = tokens(300, seed=1), tokens(40)
    p = (np.bincount(train, minlength=CONFIG.vocab_size) + 1) / (len(train) + CONFIG.vocab_size)
    np.testing.assert_allclose(
        unigram_perplexity(np.bincount(train), ExactSet(Packed(text), SEQ_LEN), CONFIG.vocab_size),
        math.exp(-np.mean([math.log(p[token]) for token in text])),
        rtol=1e-12,
    )


# --- documents ---------------------------------------------------------------------------------------------

CLS, SEP = 2, 3


def documents(lengths):
    """Documents of such lengths, whose tokens are all different from [CLS] and [SEP]."""
    return Documents(tokens(sum(lengths)), np.cumsum(lengths), CLS, SEP)


@given(lengths=st.lists(st.integers(1, 20), min_size=8, max_size=16), seq_len=st.integers(3, 16))
def test_what_stands_around_documents_is_never_predicted(lengths, seq_len):
    stream = documents(lengths)
    sampled, exact = held_out_sets(stream, seq_len, "test")
    assert sampled.unmasked == (CLS, SEP)
    assert not np.isin(sampled.masked_tokens, (CLS, SEP)).any()
    np.testing.assert_array_equal(exact.masked_tokens, stream.text_ids)
    windows, positions = exact.batch(np.arange(exact.rows))
    np.testing.assert_array_equal(np.take_along_axis(windows, positions, axis=1)[:, 0], stream.text_ids)
    assert np.isin(windows, (CLS, SEP)).any()


def test_a_window_of_documents_is_measured_on_the_tokens_that_are_masked_alone():
    """Documents of one token: a window of 12 has 4 tokens of its own, fewer than half of it."""
    weights, windows = params(), np.tile(np.array([CLS, 7, SEP], np.int32), (2, 4))
    windows[1, 1::3] = (9, 8, 11, 5)
    positions = np.array([[0, 1, 4, 5, 10], [1, 2, 3, 7, 11]])
    inputs, losses = windows.copy(), []
    for row, chosen in enumerate(positions):
        inputs[row, [p for p in chosen if windows[row, p] not in (CLS, SEP)]] = MASK_ID
    logits = np.asarray(bert.forward(CONFIG, weights, inputs), np.float64)
    for row, chosen in enumerate(positions):
        counted = [p for p in chosen if windows[row, p] not in (CLS, SEP)]
        log_probs = logits[row] - np.log(np.exp(logits[row]).sum(axis=-1, keepdims=True))
        losses.append(-np.mean([log_probs[p, windows[row, p]] for p in counted]))
    window_loss = make_window_loss(CONFIG, MASK_ID, unmasked=(CLS, SEP))
    np.testing.assert_allclose(window_loss(weights, windows, positions), losses, rtol=1e-5)
