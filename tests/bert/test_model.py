"""The model computes BertForMaskedLM's function and gradient, and its dropout is dropout."""

import dataclasses
import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bwsk_jax.bert import (
    PRESETS,
    BertConfig,
    BertInputError,
    encode,
    forward,
    init_params,
    layer_body,
    predict,
)
from bwsk_jax.bert.huggingface import import_tensors, layout
from bwsk_jax.bert.modules import Dropout
from bwsk_jax.classification.classify import classify
from tests.support.bert_models import TINY, tokens, torch_model


def numpy_tensors(model):
    return {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}


def torch_logits(model, ids, mask=None, types=None):
    import torch

    named = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
    with torch.no_grad():
        return model(
            **{k: torch.from_numpy(v).long() for k, v in named.items() if v is not None}
        ).logits.numpy()


def assert_same_logits(config, model, shape, masked, typed, seed=0):
    params = import_tensors(config, numpy_tensors(model))
    ids, mask, types = tokens(config, shape, seed)
    inputs = (ids, mask if masked else None, types if typed else None)
    ours = jax.jit(functools.partial(forward, config))(params, *inputs)
    theirs = torch_logits(model, *inputs)
    assert ours.dtype == jnp.float32
    # What a masked position itself answers means nothing, but is the same function too.
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)


@pytest.fixture(scope="module")
def tiny():
    return TINY, init_params(TINY, jax.random.key(3))


@pytest.fixture(scope="module")
def tiny_model():
    return torch_model(TINY)


@pytest.mark.parametrize("masked", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("typed", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("shape", [(1, 1), (2, 7), (3, 40)])
def test_logits_are_those_of_torch(tiny_model, shape, masked, typed):
    assert_same_logits(TINY, tiny_model, shape, masked, typed)


@pytest.mark.parametrize("activation", ["gelu_new", "relu", "silu"])
def test_logits_with_other_activations(activation):
    config = dataclasses.replace(TINY, hidden_act=activation)
    assert_same_logits(config, torch_model(config), (2, 9), masked=True, typed=False)


@pytest.mark.slow
def test_logits_of_base_are_those_of_torch():
    model = torch_model(PRESETS["base"])
    for shape, masked, typed in [((1, 5), False, False), ((2, 64), True, True), ((1, 512), False, False)]:
        assert_same_logits(PRESETS["base"], model, shape, masked, typed)


def test_base_has_the_parameters_of_bert_base():
    shapes = jax.eval_shape(lambda: init_params(PRESETS["base"], jax.random.key(0)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 109_514_298
    assert len(layout(PRESETS["base"])) == 202


def test_gradients_are_those_of_torch(tiny_model):
    import torch

    ids, mask, types = tokens(TINY, (3, 12))
    labels = np.where(np.random.default_rng(1).random(ids.shape) < 0.4, ids, -100)
    named = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types, "labels": labels}
    tiny_model.zero_grad()
    theirs_loss = tiny_model(**{k: torch.from_numpy(v).long() for k, v in named.items()}).loss
    theirs_loss.backward()
    theirs = {name: parameter.grad.numpy() for name, parameter in tiny_model.named_parameters()}

    def loss(params):
        log_probs = jax.nn.log_softmax(forward(TINY, params, ids, mask, types))
        picked = jnp.take_along_axis(log_probs, jnp.where(labels < 0, 0, labels)[..., None], -1)[..., 0]
        return -jnp.where(labels < 0, 0, picked).sum() / (labels >= 0).sum()

    params = import_tensors(TINY, numpy_tensors(tiny_model))
    value, ours = jax.jit(jax.value_and_grad(loss))(params)
    np.testing.assert_allclose(value, theirs_loss.item(), rtol=1e-6)
    # The import maps gradients as it maps parameters.
    expected = import_tensors(TINY, theirs)
    for (path, ours_leaf), theirs_leaf in zip(
        jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(
            ours_leaf, theirs_leaf, rtol=1e-4, atol=2e-6, err_msg=jax.tree_util.keystr(path)
        )


def test_fresh_parameters_are_distributed_as_in_bert():
    config = BertConfig(vocab_size=600, hidden_size=64, num_hidden_layers=2, num_attention_heads=2)
    params = init_params(config, jax.random.key(0))
    word = params["embeddings"]["word"]["embedding"]
    assert not word[0].any() and word[1:].any(axis=1).all()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = path[-1].key
        if name == "scale":
            assert (leaf == 1).all()
        elif name == "bias":
            assert (leaf == 0).all()
        else:
            assert leaf.std() == pytest.approx(config.initializer_range, rel=0.15)
    first, second = params["layers"]["feed_forward"]["up"]["kernel"]
    assert (first != second).mean() > 0.99


@pytest.mark.parametrize("impl", [pytest.param("threefry2x32", marks=pytest.mark.slow), "rbg"])
def test_dropout_follows_its_key(tiny, impl):
    config, params = tiny
    ids, _, _ = tokens(config, (2, 11))
    key = jax.random.key(5, impl=impl)
    run = jax.jit(lambda k: encode(config, params, ids, dropout_key=k))
    plain = encode(config, params, ids)
    np.testing.assert_array_equal(run(key), run(key))
    assert (run(key) != run(jax.random.key(6, impl=impl))).mean() > 0.9
    assert (run(key) != plain).mean() > 0.9


def test_no_dropout_rate_is_no_dropout(tiny):
    config, params = tiny
    still = dataclasses.replace(config, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    ids, _, _ = tokens(config, (2, 11))
    np.testing.assert_array_equal(
        encode(still, params, ids, dropout_key=jax.random.key(0)), encode(still, params, ids)
    )


@pytest.mark.parametrize("rate", [0.1, pytest.param(0.5, marks=pytest.mark.slow), 0.9])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("width", [1, 400, 401])
def test_dropout_statistics(rate, dtype, width):
    rows = 400_000 // width
    x = jnp.ones((rows, width), dtype)
    y = np.asarray(Dropout(rate, dtype).apply({}, x, rngs={"dropout": jax.random.key(0)}), np.float32)
    deviation = (rate * (1 - rate) / x.size) ** 0.5
    assert abs((y == 0).mean() - rate) < 5 * deviation + 2**-16
    np.testing.assert_allclose(y[y != 0], 1 / (1 - rate), rtol=2**-8 if dtype == jnp.bfloat16 else 2e-4)
    kept = (y != 0).astype(np.float64) - (1 - rate)
    if width > 1:  # neighbours share a random word and must still be independent
        assert abs((kept[:, :-1] * kept[:, 1:]).mean()) < 5 * rate * (1 - rate) / x.size**0.5


def test_scan_is_a_loop_over_the_layers(tiny):
    config, params = tiny
    ids, mask, types = tokens(config, (2, 11))

    def unrolled(body, init, xs):
        carry = init
        for layer in range(config.num_hidden_layers):
            carry, _ = body(carry, jax.tree.map(operator.itemgetter(layer), xs))
        return carry, None

    for key in (None, jax.random.key(1)):
        scanned = encode(config, params, ids, mask, types, dropout_key=key)
        looped = encode(config, params, ids, mask, types, dropout_key=key, scan=unrolled)
        np.testing.assert_allclose(scanned, looped, rtol=0, atol=2e-6)


def test_a_visible_mask_changes_nothing(tiny):
    config, params = tiny
    ids, _, _ = tokens(config, (2, 11))
    explicit = forward(config, params, ids, np.ones_like(ids), np.zeros_like(ids))
    np.testing.assert_allclose(forward(config, params, ids), explicit, rtol=0, atol=1e-6)


def test_hidden_positions_are_not_read(tiny):
    config, params = tiny
    ids, mask, _ = tokens(config, (3, 20), seed=4)
    other = np.where(mask == 1, ids, 1 + ids % 7).astype(np.int32)
    assert (ids != other).any()
    np.testing.assert_array_equal(
        np.asarray(forward(config, params, ids, mask))[mask == 1],
        np.asarray(forward(config, params, other, mask))[mask == 1],
    )


def test_predict_takes_gathered_positions(tiny):
    config, params = tiny
    ids, _, _ = tokens(config, (2, 11))
    hidden = encode(config, params, ids)
    np.testing.assert_allclose(
        predict(config, params, hidden[:, 3]), predict(config, params, hidden)[:, 3], rtol=0, atol=1e-6
    )


def test_bfloat16_computes_in_bfloat16_and_answers_in_float32(tiny):
    config, params = tiny
    ids, _, _ = tokens(config, (2, 11))
    hidden = encode(config, params, ids, dtype=jnp.bfloat16, dropout_key=jax.random.key(0))
    assert hidden.dtype == jnp.bfloat16
    logits = forward(config, params, ids, dtype=jnp.bfloat16)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, forward(config, params, ids), rtol=0, atol=0.02)


def test_every_leaf_module_names_its_equations(tiny):
    """12 leaf modules a layer, 5 of the embeddings and 4 of the head: 153 in base, as in BertForMaskedLM."""
    config, params = tiny
    ids, mask, _ = tokens(config, (2, 11))
    key = jax.random.key(0)
    layer = jax.tree.map(lambda x: x[0], params["layers"])
    body = layer_body(config, dtype=jnp.float32, train=True, attention_mask=jnp.asarray(mask))
    names = module_names(body, jnp.ones((2, 11, config.hidden_size)), (layer, key))
    leaves = {f"Layer/attention/{leaf}" for leaf in ("query", "key", "value", "dropout")}
    leaves |= {f"Layer/attention/{leaf}" for leaf in ("output", "output_dropout", "layer_norm")}
    leaves |= {f"Layer/feed_forward/{leaf}" for leaf in ("up", "activation", "down", "dropout", "layer_norm")}
    assert len(leaves) == 12 and leaves <= names
    whole = lambda p, k: predict(config, p, encode(config, p, ids, dropout_key=k))
    names = module_names(whole, params, key)
    leaves = {f"Embeddings/{leaf}" for leaf in ("word", "token_type", "position", "layer_norm", "dropout")}
    leaves |= {f"MaskedLMHead/{leaf}" for leaf in ("transform", "activation", "layer_norm", "decoder")}
    assert len(leaves) == 9 and leaves <= names


def module_names(fun, *args):
    return {module.name for module in classify(fun, *args).modules}


def test_no_mask_means_no_masking_equations(tiny):
    config, params = tiny
    layer = jax.tree.map(lambda x: x[0], params["layers"])
    trace = lambda mask: jax.make_jaxpr(
        layer_body(config, dtype=jnp.float32, train=False, attention_mask=mask)
    )(jnp.ones((2, 11, config.hidden_size)), (layer, None))
    masked, unmasked = trace(jnp.ones((2, 11))), trace(None)
    additions = lambda closed: str(closed).count(" = add ")
    assert additions(masked) - additions(unmasked) == 1


def test_wrong_inputs_are_named(tiny):
    config, params = tiny
    run = lambda *inputs: forward(config, params, *inputs)
    with pytest.raises(BertInputError, match=r"41 positions.*max_position_embeddings=40"):
        run(jnp.ones((1, 41), jnp.int32))
    with pytest.raises(BertInputError, match=r"float32\[1, 4\]"):
        run(jnp.ones((1, 4)))
    with pytest.raises(BertInputError, match=r"attention_mask has shape \(4,\)"):
        run(jnp.ones((1, 4), jnp.int32), jnp.ones(4))
    with pytest.raises(BertInputError, match="token_type_ids"):
        run(jnp.ones((1, 4), jnp.int32), None, jnp.ones((1, 5), jnp.int32))
