"""Modules are told apart by names or callers, and are S if an input of theirs comes back."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax import lax

from bwsk_jax import bert, classify
from tests.support.kinds import X


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.LayerNorm(name="norm")(x)
        x = nn.Dense(16, name="up")(x)
        x = Gelu(name="gelu")(x)
        x = nn.Dense(8, name="down")(x)
        x = nn.Dropout(0.5, deterministic=False, name="dropout")(x)
        x = nn.Dense(8, name="same")(x)
        return Softmax(name="softmax")(x)


class Gelu(nn.Module):
    def __call__(self, x):
        return nn.gelu(x)


class Softmax(nn.Module):
    def __call__(self, x):
        return nn.softmax(x)


EXPECTED = {"norm": "S", "up": "S", "gelu": "K", "down": "K", "dropout": "K", "same": "S", "softmax": "S"}


@pytest.mark.parametrize("how", [{}, {"wrt": 1}])
@pytest.mark.parametrize("rows", [2, 300])
def test_a_module_preserves_if_its_input_comes_back(how, rows):
    x = jnp.ones((rows, 8))
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    params = jax.eval_shape(Block().init, keys, x)
    apply = lambda params, x: Block().apply(params, x, rngs={"dropout": jax.random.key(2)})
    report = classify(apply, params, x, **how)
    assert {m.name.removeprefix("Block/"): m.kind for m in report.modules if m.leaf} == EXPECTED
    assert report.leaf_modules == {"S": 4, "K": 3}
    assert report.ratios["modules"] == {"S": 4 / 7, "~S": 0.0, "K": 3 / 7}
    reference = classify(apply, params, x, taxonomy="reference", **how)
    assert {m.name.removeprefix("Block/") for m in reference.modules if m.leaf and m.kind == "K"} == {
        "gelu",
        "dropout",
        "softmax",
    }


class Net(nnx.Module):
    def __init__(self, rngs):
        self.up, self.norm = nnx.Linear(8, 16, rngs=rngs), nnx.LayerNorm(16, rngs=rngs)
        self.down = nnx.Linear(16, 8, rngs=rngs)

    def __call__(self, x):
        x = self.up(x)
        x = self.norm(x)
        return self.down(x)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint])
def test_nnx_modules_are_named_by_their_classes_and_who_calls_them(wrap):
    report = classify(wrap(Net(nnx.Rngs(0))), X)
    leaves = [(m.name.split(":")[0], m.kind) for m in report.modules if m.leaf]
    assert leaves == [("Net/Linear", "S"), ("Net/LayerNorm", "S"), ("Net/Linear", "K")]


class Noisy(nnx.Module):
    def __init__(self, rngs):
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.drop(jnp.where(x > 0, x, 0.0))


def test_what_jax_traces_once_for_all_is_where_it_is_called():
    jnp.where(jnp.ones(X.shape) > 0, 1.0, 0.0)
    graph, state = nnx.split(Noisy(nnx.Rngs(0)))
    report = classify(lambda state, x: nnx.merge(graph, state)(x), state, X, wrt=1, taxonomy="reference")
    assert {line.module.partition("/")[0] for line in report.lines} == {"Noisy"}
    assert all(line.source for line in report.lines)
    (dropout,) = [module for module in report.modules if module.leaf]  # not its source of keys
    assert dropout.name.startswith("Noisy/Dropout") and dropout.kind == "K"


class Tower(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(8, width, rngs=rngs) for width in (8, 8)])
        self.down, self.shared = nnx.Linear(8, 4, rngs=rngs), nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x):
        for layer in (*self.layers, self.down, self.shared, self.shared):
            x = nnx.tanh(layer(x))
        return x


@pytest.mark.parametrize("wrt", [None, 1])
def test_layers_of_a_list_are_counted_one_by_one_and_shared_ones_once(wrt):
    graph, state = nnx.split(nnx.eval_shape(lambda: Tower(nnx.Rngs(0))))
    report = classify(lambda state, x: nnx.merge(graph, state)(x), state, X, wrt=wrt)
    leaves = [(m.name.split(":")[0], m.kind) for m in report.modules if m.leaf]
    assert leaves == [("Tower/Linear", kind) for kind in "SSKS"]


def test_a_name_stack_goes_before_calling_classes():
    report = classify(jax.named_scope("mine")(Net(nnx.Rngs(0))), X)
    assert {m.name for m in report.modules} == {"mine"}


def test_modules_inside_a_loop_are_named_once():
    net = Net(nnx.Rngs(0))
    report = classify(lambda x: lax.scan(lambda c, _: (net(c), None), x, None, length=3)[0], X)
    assert {(m.name.split(":")[0], m.repeats) for m in report.modules if m.leaf} == {
        ("Net/Linear", 3),
        ("Net/LayerNorm", 3),
    }


def base_training():
    """Training's logits, with dropout, and what they are a function of."""
    config = bert.PRESETS["base"]
    params = jax.eval_shape(lambda key: bert.init_params(config, key), jax.random.key(0))
    tokens = jax.ShapeDtypeStruct((2, 16), jnp.int32)

    def training(params, tokens, key):
        return bert.predict(config, params, bert.encode(config, params, tokens, dropout_key=key))

    return training, params, tokens, jax.random.key(0)


@functools.cache
def base(taxonomy):
    return classify(*base_training(), wrt=1, taxonomy=taxonomy)


def test_bert_base_counts_as_the_reference_does():
    report = base("reference")
    assert report.leaf_modules == {"S": 103, "K": 50}
    assert round(report.ratios["modules"]["S"], 3) == 0.673


@functools.cache
def base_with_all_followed(taxonomy):
    return classify(*base_training(), taxonomy=taxonomy)


def test_bert_base_with_parameters_followed_too():
    """The look-ups of positions and token types drop rows that they do not read."""
    followed, tokens = (
        {m.name for m in report.modules if m.leaf and m.kind == "K"}
        for report in (base_with_all_followed("strict"), base("strict"))
    )
    assert followed - tokens == {"Embeddings/position", "Embeddings/token_type"}
    assert base_with_all_followed("strict").leaf_modules == {"S": 88, "K": 65}
    assert base_with_all_followed("reference").leaf_modules == {"S": 103, "K": 50}


def test_what_a_softmax_subtracts_is_not_cut_off():
    """It is a maximum with -inf, which is the value itself."""
    report = classify(jax.nn.softmax, X)
    cuts = [line for line in report.lines if line.primitive == "max" and "-inf" in line.inputs]
    assert [line.kind for line in cuts] == ["S"]


def test_bert_base_strictly():
    """The 12 down-projections and the look-up of tokens erase as well."""
    strict, reference = (
        {(m.name, m.repeats) for m in base(t).modules if m.leaf and m.kind == "K"}
        for t in ("strict", "reference")
    )
    assert strict - reference == {("Layer/feed_forward/down", 12), ("Embeddings/word", 1)}
    assert reference < strict
    assert base("strict").leaf_modules == {"S": 90, "K": 63}
