import math
from collections import Counter

import jax
import numpy as np

from bwsk_jax import bert
from bwsk_jax.training.evaluation import (
    evaluation_set,
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
    for window, positions, logits in zip(*held_out, all_logits, strict=True):
        log_probs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        losses.append(-np.mean([log_probs[position, window[position]] for position in positions]))
    expected = math.exp(np.mean(losses))

    window_loss = make_window_loss(CONFIG, MASK_ID)
    for batch_size in (3, 20):
        actual = pseudo_perplexity(window_loss, weights, held_out, batch_size)
        np.testing.assert_allclose(actual, expected, rtol=1e-5)


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
        for window, positions in zip(*held_out, strict=True)
        for position in positions
    ]
    np.testing.assert_allclose(
        unigram_perplexity(train, held_out, CONFIG.vocab_size), math.exp(-np.mean(log_probs)), rtol=1e-12
    )


def test_uniform_predictions_have_the_vocabulary_as_perplexity():
    """With all parameters 0 the logits are 0."""
    weights = jax.tree.map(np.zeros_like, params())
    window_loss = make_window_loss(CONFIG, MASK_ID)
    value = pseudo_perplexity(window_loss, weights, evaluation_set(tokens(3, 16)), 2)
    np.testing.assert_allclose(value, CONFIG.vocab_size, rtol=1e-5)
