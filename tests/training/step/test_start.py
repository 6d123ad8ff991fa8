"""A model from scratch starts from what is known of the text, and is the same function as before."""

import dataclasses

import jax
import numpy as np
import pytest

from bwsk_jax import bert
from bwsk_jax.train import main
from bwsk_jax.training.step.start import informed, sinusoids
from tests.support import tiny
from tests.support.runs import FLAGS, results

COUNTS = np.random.default_rng(0).integers(0, 1000, tiny.CONFIG.vocab_size)


def test_it_begins_at_the_frequencies_of_the_tokens():
    """Up to what the other parameters add, which is nothing where they are small."""
    config = dataclasses.replace(tiny.CONFIG, initializer_range=1e-6)
    params = informed(bert.init_params(config, jax.random.key(1)), COUNTS, config.initializer_range)
    logits = bert.forward(config, params, tiny.tokens(2, 7))
    expected = np.log((COUNTS + 1) / (COUNTS.sum() + len(COUNTS)))
    assert np.abs(np.asarray(jax.nn.log_softmax(logits)) - expected).max() < 1e-3


def test_only_positions_and_the_bias_of_the_output_differ_from_what_is_drawn():
    drawn = tiny.params()
    started = informed(drawn, COUNTS, 0.06)
    assert jax.tree.map(np.shape, drawn) == jax.tree.map(np.shape, started)
    same = jax.tree.map(lambda a, b: bool((a == b).all()), drawn, started)
    others = {jax.tree_util.keystr(path) for path, equal in jax.tree.leaves_with_path(same) if not equal}
    assert others == {"['embeddings']['position']['embedding']", "['head']['decoder']['bias']"}


@pytest.mark.parametrize("width", [8, 9, 128])
def test_positions_have_the_scale_that_is_asked_for(width):
    table = sinusoids(512, width, 0.06)
    assert table.shape == (512, width)
    assert np.sqrt((table**2).mean()) == pytest.approx(0.06, rel=0.1)


def test_a_run_that_starts_informed_begins_near_the_unigrams(text_folder, tmp_path):
    """And one whose parameters are drawn begins near the size of the vocabulary."""
    begins = {}
    for start in ("informed", "drawn"):
        flags = ["--variant", "scratch-conventional", "--dataset", text_folder, "--start", start]
        main([*flags, "--out", str(tmp_path / start), *FLAGS])
        run = results(tmp_path / start, "scratch-conventional")
        begins[start] = run["first_val_metric"] / run["unigram_perplexity"]
        assert run["settings"]["start"] == start
    assert 0.8 < begins["informed"] < 1.5 < begins["drawn"]
