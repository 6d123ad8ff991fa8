"""Linen modules give by our transformations what they give by Flax's own, and by none."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bwsk_jax
from bwsk_jax.frameworks import linen
from tests.support.frameworks import (
    LEAST,
    agree,
    every_limit,
    every_other,
    naming,
    promotion_as_the_libraries_have_it,
)
from tests.support.parity import assert_same, loss_of, random

promotion = promotion_as_the_libraries_have_it()
X = random(0, 4, 6)
KEYS = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
SCANNED = {
    "variable_axes": {"params": 0, "batch_stats": 0, "calls": 0, "intermediates": 0},
    "split_rngs": {"params": True, "dropout": True},
    "in_axes": (1, nn.broadcast),
    "out_axes": 1,
}


class Block(nn.Module):
    """Has parameters, statistics, a counter, something sown, dropout, and an argument to decide by."""

    @nn.compact
    def __call__(self, x, train):
        h = nn.Dense(6, use_bias=False)(x)
        h = nn.BatchNorm(use_running_average=not train, momentum=0.5)(h)
        self.sow("intermediates", "hidden", h)
        calls = self.variable("calls", "count", lambda: jnp.zeros((), jnp.int32))
        if self.is_mutable_collection("calls"):
            calls.value += 1
        return x + nn.Dropout(0.5, deterministic=not train)(nn.tanh(h))


class Layer(Block):
    """A block as the body of a scan, which reads a slice and gives one."""

    @nn.compact
    def __call__(self, x, shift, train):
        y = Block(name="block")(x + shift, train)
        return y, y.sum(axis=-1)


class Network(nn.Module):
    """Two blocks, transformed, that share a counter of keys with a dropout between them."""

    transform: object

    @nn.compact
    def __call__(self, x, train=True):
        block = self.transform(Block)
        x = block(name="first")(x, train)
        x = nn.Dropout(0.2, deterministic=not train)(x)
        return block(name="second")(x, train)


class Stack(nn.Module):
    """Layers in a loop."""

    scan: object
    how: object

    @nn.compact
    def __call__(self, x, train=True):
        shifts = jnp.linspace(0.0, 0.3, 4 * 3).reshape(4, 3, 1)
        return self.scan(Layer, **self.how)(name="layers")(x, shifts, train)


def results(module, variables, train=True):
    """A function of parameters and input: the loss, gradients by both, and the changed collections."""
    rest = {name: tree for name, tree in variables.items() if name != "params"}

    def loss(params, x):
        out, changed = module.apply(
            {"params": params} | rest, x, train, rngs=KEYS, mutable=["batch_stats", "calls", "intermediates"]
        )
        return loss_of(out), (out, changed)

    return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)


# --- remat -------------------------------------------------------------------------------------------------


def static_remat(block):
    return nn.remat(block, static_argnums=(2,))


@every_limit
@every_other
def test_a_block_gives_what_remat_and_plain_give(limits, other):
    ours = Network(lambda block: linen.reversible(block, **limits))
    expected = Network(static_remat if other == "remat" else lambda block: block)
    variables = expected.init(KEYS, X)
    assert_same(ours.init(KEYS, X), variables)
    agree(results(ours, variables), results(expected, variables), variables["params"], X)


def test_parameters_have_the_names_that_flax_gives_them():
    for transform, flax_own in (
        (linen.reversible(nn.Dense), nn.remat(nn.Dense)),
        (linen.reversible_remat_scan(nn.Dense, (2,)), nn.remat_scan(nn.Dense, (2,))),
        (linen.reversible_scan(Layer, **SCANNED), nn.scan(Layer, **SCANNED)),
    ):
        assert transform.__name__ == flax_own.__name__


def test_dropout_and_statistics_are_off_when_not_training():
    ours, plain = Network(linen.reversible), Network(lambda block: block)
    variables = plain.init(KEYS, X)
    agree(results(ours, variables, False), results(plain, variables, False), variables["params"], X)


def test_methods_and_decorated_methods():
    class Decorated(nn.Module):
        @linen.reversible(max_overhead=0.1)
        @nn.compact
        def __call__(self, x):
            return nn.tanh(nn.Dense(6)(x))

    class Plain(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.tanh(nn.Dense(6)(x))

    class Named(nn.Module):
        def setup(self):
            self.dense = nn.Dense(6)

        def encode(self, x):
            return nn.tanh(self.dense(x))

    variables = Plain().init(KEYS, X)
    assert_same(Decorated().init(KEYS, X), variables)
    gradient = lambda module: jax.grad(lambda v: loss_of(module.apply(v, X)))
    agree(gradient(Decorated()), gradient(Plain()), variables)
    transformed = linen.reversible(Named, methods=["encode"])()
    variables = transformed.init(KEYS, X, method="encode")
    encode = lambda module: jax.grad(lambda v: loss_of(module.apply(v, X, method="encode")))
    agree(encode(transformed), encode(Named()), variables)


def test_collections_that_are_not_lifted_are_not_there():
    class Reader(nn.Module):
        @nn.compact
        def __call__(self, x):
            return x * self.has_variable("calls", "count")

    class Outer(nn.Module):
        transform: object

        @nn.compact
        def __call__(self, x):
            return self.transform(Reader, variables=["params"])(name="reader")(x)

    variables = {"calls": {"reader": {"count": jnp.ones(())}}}
    for transform in (linen.reversible, nn.remat):
        assert not np.any(Outer(transform).apply(variables, X))


@pytest.mark.slow
def test_a_block_outside_jit():
    ours, plain = Network(linen.reversible), Network(lambda block: block)
    variables = plain.init(KEYS, X)
    expected = results(plain, variables)(variables["params"], X)
    assert_same(results(ours, variables)(variables["params"], X), expected)


@pytest.mark.slow
def test_a_block_within_vmap():
    module, plain = Network(linen.reversible), Network(lambda block: block)
    variables = plain.init(KEYS, X)
    many = random(3, 3, 4, 6)
    mapped = lambda m: jax.vmap(results(m, variables), in_axes=(None, 0))
    agree(mapped(module), mapped(plain), variables["params"], many)


# --- scan --------------------------------------------------------------------------------------------------


@every_limit
def test_a_scan_gives_what_scan_gives(limits):
    ours = Stack(lambda *a, **k: linen.reversible_scan(*a, **k, **limits), SCANNED)
    plain = Stack(nn.scan, SCANNED)
    variables = plain.init(KEYS, X)
    assert_same(ours.init(KEYS, X), variables)
    agree(results(ours, variables), results(plain, variables), variables["params"], X)


@pytest.mark.slow
@pytest.mark.parametrize(
    "order", [{"reverse": True}, {"unroll": 3}, {"check_constancy_invariants": False}], ids=str
)
def test_other_arguments_of_scan(order):
    how = SCANNED | order
    variables = Stack(nn.scan, how).init(KEYS, X)
    ours, plain = (results(Stack(scan, how), variables) for scan in (linen.reversible_scan, nn.scan))
    agree(ours, plain, variables["params"], X)


def test_parameters_that_all_iterations_share():
    class Cell(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            y = nn.tanh(nn.Dense(6)(x))
            return y, y

    how = {"variable_broadcast": "params", "split_rngs": {"params": False}, "length": 3}

    class Recurrent(nn.Module):
        scan: object

        @nn.compact
        def __call__(self, x):
            return self.scan(Cell, **how)(name="cell")(x, None)

    variables = Recurrent(nn.scan).init(KEYS, X)
    assert_same(Recurrent(linen.reversible_scan).init(KEYS, X), variables)
    gradient = lambda scan: jax.value_and_grad(lambda v: loss_of(Recurrent(scan).apply(v, X)))
    agree(gradient(linen.reversible_scan), gradient(nn.scan), variables)


def test_a_collection_that_is_carried_and_a_function_that_is_scanned():
    class Counting(nn.Module):
        scan: object

        @nn.compact
        def __call__(self, x, _):
            self.variable("calls", "count", lambda: jnp.zeros((), jnp.int32))

            def body(self, carry, shift):
                calls = self.get_variable("calls", "count") + 1
                if self.is_mutable_collection("calls"):
                    self.put_variable("calls", "count", calls)
                return nn.tanh(nn.Dense(6, name="dense")(carry) * calls + shift), None

            layers = self.scan(
                body, variable_axes={"params": 0}, variable_carry="calls", split_rngs={"params": True}
            )
            return layers(self, x, jnp.arange(3.0))[0]

    ours, plain = Counting(linen.reversible_scan), Counting(nn.scan)
    variables = plain.init(KEYS, X, True)
    assert_same(ours.init(KEYS, X, True), variables)
    assert variables["calls"]["count"] == 3
    agree(results(ours, variables), results(plain, variables), variables["params"], X)


def test_a_coupling_keeps_nothing_by_inverting():
    class Coupling(nn.Module):
        @nn.compact
        def __call__(self, carry, _):
            a = carry[0] + nn.tanh(nn.Dense(64)(carry[1]))
            return (a, carry[1] + nn.tanh(nn.Dense(64)(a))), None

    class Flow(nn.Module):
        scan: object
        limits: object

        @nn.compact
        def __call__(self, x):
            layers = self.scan(
                Coupling, variable_axes={"params": 0}, split_rngs={"params": True}, length=16, **self.limits
            )
            return layers()((x, x), None)[0]

    x = jnp.ones((256, 64))
    variables = jax.eval_shape(Flow(nn.scan, {}).init, KEYS, x)
    temporaries = lambda module: (
        jax.jit(jax.grad(lambda v: loss_of(module.apply(v, x))))
        .lower(variables).compile().memory_analysis().temp_size_in_bytes
    )  # fmt: skip
    inverting = temporaries(Flow(linen.reversible_scan, LEAST))
    replaying = temporaries(Flow(linen.reversible_scan, LEAST | {"invert": False}))
    assert inverting < replaying < temporaries(Flow(nn.scan, {}))


@pytest.mark.slow
@pytest.mark.parametrize("lengths", [(6,), (2, 3)])
def test_a_repeated_block_gives_what_remat_scan_gives(lengths):
    class Unary(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Block(name="block")(x, True)

    class Repeated(nn.Module):
        transform: object

        @nn.compact
        def __call__(self, x, _):
            axes = {"params": 0, "batch_stats": 0, "calls": 0, "intermediates": 0}
            return self.transform(Unary, lengths=lengths, variable_axes=axes)(name="blocks")(x)

    ours, plain = Repeated(linen.reversible_remat_scan), Repeated(nn.remat_scan)
    variables = plain.init(KEYS, X, True)
    assert_same(ours.init(KEYS, X, True), variables)
    agree(results(ours, variables), results(plain, variables), variables["params"], X)


# --- refused -----------------------------------------------------------------------------------------------


def test_a_repeat_of_no_loop_is_refused():
    with pytest.raises(ValueError, match="at least one loop"):
        linen.reversible_remat_scan(nn.Dense, ())


@pytest.mark.parametrize("setup", [False, True])
def test_the_unlifted_function_names_the_lifted_one(setup):
    class Compact(nn.Module):
        @nn.compact
        def __call__(self, x):
            return bwsk_jax.reversible(nn.Dense(3))(x)

    class Setup(nn.Module):
        def setup(self):
            self.dense = nn.Dense(3)

        def __call__(self, x):
            return bwsk_jax.reversible(self.dense)(x)

    with naming("linen.reversible"):
        (Setup if setup else Compact)().init(KEYS, X)


def test_a_class_a_method_and_the_body_of_a_scan_are_met_likewise():
    class Decorated(nn.Module):
        @bwsk_jax.reversible
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(x)

    class Body(nn.Module):
        @nn.compact
        def __call__(self, x):
            return bwsk_jax.reversible_scan(Layer(), x, jnp.zeros((2, 1)))

    with naming("linen.reversible"):
        Decorated().init(KEYS, X)
    with naming("linen.reversible"):
        bwsk_jax.reversible(nn.Dense)(3)
    with naming("linen.reversible_scan"):
        Body().init(KEYS, X)


def test_a_closure_over_a_module_gets_a_hint():
    class Body(nn.Module):
        @nn.compact
        def __call__(self, x):
            dense = nn.Dense(6)
            return bwsk_jax.reversible_scan(lambda c, _: (dense(c), None), x, length=2)[0]

    with pytest.raises(jax.errors.UnexpectedTracerError) as met:
        Body().init(KEYS, X)
    assert any("bwsk_jax.frameworks.linen.reversible_scan" in note for note in met.value.__notes__)


def test_the_pure_functions_of_a_module_need_no_lifting():
    dense = nn.Dense(3)
    variables = dense.init(KEYS, X)
    np.testing.assert_array_equal(bwsk_jax.reversible(dense.apply)(variables, X), dense.apply(variables, X))
