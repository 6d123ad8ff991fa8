"""Both sides train the same function, and the peak of PyTorch is what its allocator gave out."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bwsk_jax import bert
from bwsk_jax.training.step.masking import masked_lm_loss
from experiments.against_pytorch import ours, theirs
from experiments.against_pytorch.__main__ import Options, table
from experiments.against_pytorch.batch import IGNORED, Batch
from experiments.steps import MASK_ID
from tests.support import tiny

CONFIG = dataclasses.replace(
    tiny.WITHOUT_DROPOUT, vocab_size=128, num_hidden_layers=3, max_position_embeddings=32
)


@pytest.fixture(scope="module")
def sides():
    """Their model and ours, with the same weights, and the batch of both."""
    batch = Batch.draw(CONFIG, batch_size=8, seq_len=32)
    params = bert.init_params(CONFIG, jax.random.key(0))
    params["head"]["decoder"]["bias"] += 0.5 * jnp.arange(128) / 128
    return theirs.Theirs(CONFIG, params, batch, "float32"), params, batch


def our_loss(params, batch):
    return masked_lm_loss(CONFIG, params, batch.tokens_bt, batch.positions_bm, MASK_ID).mean()


def test_both_sides_have_the_same_loss_of_the_same_weights(sides):
    them, params, batch = sides
    expected = our_loss(params, batch)
    for gathered in (True, False):
        np.testing.assert_allclose(them.loss(gathered).item(), expected, rtol=1e-5)


def test_both_sides_have_the_same_gradient(sides):
    them, params, batch = sides
    found = jax.grad(our_loss)(params, batch)
    for gathered in (True, False):
        them.model.zero_grad()
        them.loss(gathered).backward()
        up = them.model.bert.encoder.layer[1].intermediate.dense.weight.grad
        expected = found["layers"]["feed_forward"]["up"]["kernel"][1].T
        np.testing.assert_allclose(up.numpy(), expected, rtol=1e-3, atol=1e-7)


def test_a_batch_hides_what_is_to_be_predicted(sides):
    *_, batch = sides
    predicted = batch.labels_bt != IGNORED
    assert (batch.inputs_bt[predicted] == MASK_ID).all() and predicted.sum() == batch.positions_bm.size
    np.testing.assert_array_equal(batch.inputs_bt[~predicted], batch.tokens_bt[~predicted])
    np.testing.assert_array_equal(batch.labels_bt[predicted], batch.tokens_bt[predicted])


def test_checkpointing_takes_less_and_computes_the_same(sides):
    _, params, batch = sides
    them = theirs.Theirs(CONFIG, params, batch, "float32")
    peaks, losses = {}, {}
    with warnings.catch_warnings(action="ignore"):  # of the profiler
        for way in ("eager", "eager, checkpointing", "eager, all logits"):
            step = them.stepper(way)
            losses[way], peaks[way] = step(), them.peak(step)
    assert peaks["eager, checkpointing"] < peaks["eager"] < peaks["eager, all logits"]
    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert peaks["eager, checkpointing"] > 4 * 4 * parameters  # with two moments and the gradient
    assert (
        losses["eager"] > losses["eager, checkpointing"] > losses["eager, all logits"]
    )  # it is being trained


def test_our_step_is_of_the_same_model(sides):
    """It draws other masks, so that its loss is only about the same."""
    _, params, batch = sides
    us = ours.Ours(CONFIG, jax.tree.map(jnp.copy, params), batch, "float32")
    step, peak = us.stepper("reversible, least memory")
    assert abs(step() - our_loss(params, batch)) < 0.25
    assert us.state.step == 2  # the first was run to warm up
    assert peak > 3 * 4 * sum(leaf.size for leaf in jax.tree.leaves(us.state.params))


def test_what_is_left_out_says_why():
    figures = {"seconds": [2.0, 2.0], "cpu_seconds": [2.0, 2.0], "peak": 2**20}
    slower = {"seconds": [4.0, 3.0], "cpu_seconds": [6.0, 6.0], "peak": 2**21}
    ways = {"eager": figures, "torch.compile": {"left_out": "no compiler"}, "conventional": slower}
    shown = table({"options": vars(Options()), "ways": ways})
    assert "| torch.compile | left out: no compiler |" in shown
    assert "| conventional | 2 | 293 | 1.75 | 3.00 |" in shown
