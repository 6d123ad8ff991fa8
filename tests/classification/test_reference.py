"""By the reference's count a module is S or K by its kind, whatever its equations are."""

import functools

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from bwsk_jax import classify
from tests.support.kinds import module_kinds

IMAGES, ROWS, TOKENS = jnp.ones((4, 8, 8, 6)), jnp.ones((4, 8)), jnp.ones((4, 8), jnp.int32)


class Function(nn.Module):
    """A module that only calls a function."""

    call: object

    def __call__(self, x):
        return self.call(x)


def pool(reduce):
    return Function(lambda x: reduce(x, (2, 2), (2, 2)))


MODULES = {
    "linear": ("S", nn.Dense(3), ROWS),
    "linear to more": ("S", nn.Dense(30), ROWS),
    "embedding": ("S", nn.Embed(20, 8), TOKENS),
    "convolution": ("S", nn.Conv(4, (3, 3)), IMAGES),
    "pointwise convolution": ("S", nn.Conv(4, (1, 1)), IMAGES),
    "depthwise convolution": ("S", nn.Conv(6, (3, 3), feature_group_count=6), IMAGES),
    "strided convolution": ("K", nn.Conv(4, (3, 3), (2, 2)), IMAGES),
    "patches": ("K", nn.Conv(40, (2, 2), (2, 2)), IMAGES),
    "strided pointwise convolution": ("K", nn.Conv(4, (1, 1), (2, 2)), IMAGES),
    "transposed convolution": ("S", nn.ConvTranspose(4, (2, 2), (2, 2)), IMAGES),
    "layer norm": ("S", nn.LayerNorm(), IMAGES),
    "layer norm of rows": ("S", nn.LayerNorm(), ROWS),
    "layer norm of one vector": ("S", nn.LayerNorm(), ROWS[0]),
    "RMS norm": ("S", nn.RMSNorm(), ROWS),
    "group norm": ("S", nn.GroupNorm(2), IMAGES),
    "instance norm": ("S", nn.InstanceNorm(), IMAGES),
    "batch norm in training": ("K", nn.BatchNorm(use_running_average=False), IMAGES),
    "batch norm of rows in training": ("K", nn.BatchNorm(use_running_average=False), ROWS),
    "batch norm in evaluation": ("S", nn.BatchNorm(use_running_average=True), IMAGES),
    "relu": ("K", Function(nn.relu), ROWS),
    "relu6": ("K", Function(nn.relu6), ROWS),
    "gelu": ("K", Function(nn.gelu), ROWS),
    "exact gelu": ("K", Function(functools.partial(nn.gelu, approximate=False)), ROWS),
    "silu": ("K", Function(nn.silu), ROWS),
    "mish": ("K", Function(jax.nn.mish), ROWS),
    "tanh": ("K", Function(nn.tanh), ROWS),
    "sigmoid": ("K", Function(nn.sigmoid), ROWS),
    "elu": ("K", Function(nn.elu), ROWS),
    "selu": ("K", Function(nn.selu), ROWS),
    "celu": ("K", Function(nn.celu), ROWS),
    "hard swish": ("K", Function(nn.hard_swish), ROWS),
    "hard sigmoid": ("K", Function(nn.hard_sigmoid), ROWS),
    "softplus": ("S", Function(nn.softplus), ROWS),
    "leaky relu": ("S", Function(nn.leaky_relu), ROWS),
    "leaky relu as a maximum": ("S", Function(lambda x: jnp.maximum(x, 0.1 * x)), ROWS),
    "parametric relu": ("S", nn.PReLU(), ROWS),
    "softmax": ("K", Function(nn.softmax), ROWS),
    "masked softmax": ("K", Function(lambda x: nn.softmax(x, where=x > 0)), ROWS),
    "softmax over examples": ("K", Function(functools.partial(nn.softmax, axis=0)), ROWS),
    "log-softmax": ("K", Function(nn.log_softmax), ROWS),
    "dropout": ("K", nn.Dropout(0.5, deterministic=False), ROWS),
    "dropout in evaluation": ("S", nn.Dropout(0.5, deterministic=True), ROWS),
    "max pooling": ("K", pool(nn.max_pool), IMAGES),
    "average pooling": ("K", pool(nn.avg_pool), IMAGES),
    "adaptive average pooling": ("K", Function(lambda x: x.mean((1, 2))), IMAGES),
    "adaptive average pooling to a grid": (
        "K",
        Function(lambda x: x.reshape(4, 2, 4, 2, 4, 6).mean((2, 4))),
        IMAGES,
    ),
    "adaptive max pooling": ("K", Function(lambda x: x.max((1, 2), keepdims=True)), IMAGES),
    "flatten": ("S", Function(lambda x: x.reshape(4, -1)), IMAGES),
}


@pytest.mark.parametrize("how", [{}, {"wrt": 1}], ids=["all followed", "data followed"])
@pytest.mark.parametrize("name", MODULES)
def test_a_kind_of_module_counts_as_in_the_reference(name, how):
    kind, module, x = MODULES[name]
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    variables = jax.eval_shape(module.init, keys, x)
    apply = lambda variables, x: module.apply(
        variables, x, rngs={"dropout": jax.random.key(2)}, mutable=["batch_stats"]
    )
    shifted = lambda variables, x: apply(variables, x + 1 if x.dtype == jnp.float32 else x)
    for fun in (apply, shifted):
        found = module_kinds(fun, variables, x, taxonomy="reference", **how)
        assert set(found.values()) <= {kind}
        assert found or name == "dropout in evaluation"


@pytest.mark.parametrize(
    ("kind", "layer"),
    [
        ("K", eqx.nn.AdaptiveAvgPool2d((2, 2))),
        ("K", eqx.nn.AdaptiveMaxPool2d((2, 2))),
        ("K", eqx.nn.MaxPool2d(2, 2)),
        ("K", eqx.nn.AvgPool2d(2, 2)),
        ("S", eqx.nn.GroupNorm(2, 6)),
        ("S", eqx.nn.LayerNorm((6, 8, 8))),
        ("S", eqx.nn.Conv2d(6, 4, 3, key=jax.random.key(0))),
        ("K", eqx.nn.Conv2d(6, 4, 3, 2, key=jax.random.key(0))),
        ("S", eqx.nn.ConvTranspose2d(6, 4, 2, 2, key=jax.random.key(0))),
        ("S", eqx.nn.PReLU()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_layers_of_one_example_count_the_same_where_they_are_mapped_over_examples(kind, layer):
    images = IMAGES.transpose(0, 3, 1, 2)
    assert [*module_kinds(jax.vmap(layer), images, taxonomy="reference").values()] == [kind]
    assert [*module_kinds(layer, images[0], taxonomy="reference").values()] == [kind]


@pytest.mark.parametrize(("mode", "evaluates"), [("batch", False), ("ema", False), ("batch", True)])
@pytest.mark.parametrize("shape", [(4, 6, 8, 8), (4, 6)])
def test_batch_statistics_are_seen_where_examples_are_mapped_over(mode, evaluates, shape):
    norm, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(6, "batch", mode=mode)
    norm = eqx.nn.inference_mode(norm, evaluates)
    call = jax.vmap(norm, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    found = module_kinds(lambda x: call(x, state)[0], jnp.ones(shape), taxonomy="reference")
    assert [*found.values()] == ["S" if evaluates else "K"]


class Residual(nn.Module):
    """A block of a residual network, and what stands before and behind such blocks."""

    @nn.compact
    def __call__(self, x):
        norm = functools.partial(nn.BatchNorm, use_running_average=False)
        x = norm(name="norm_1")(nn.Conv(8, (3, 3), (2, 2), name="first")(x))
        x = pool(nn.max_pool).copy(name="pool")(Function(nn.relu, name="relu_1")(x))
        y = norm(name="norm_2")(nn.Conv(8, (3, 3), name="second")(x))
        x = Function(nn.relu, name="relu_2")(x + y)
        x = Function(lambda x: x.mean((1, 2)), name="mean")(x)
        return nn.Dense(10, name="head")(x)


def test_a_residual_network_counts_as_in_the_reference():
    """As in ResNet-50's 47 S and 79 K: its only S are convolutions of stride 1 and the last linear map."""
    x = jnp.ones((4, 16, 16, 3))
    variables = jax.eval_shape(Residual().init, jax.random.key(0), x)
    apply = lambda variables, x: Residual().apply(variables, x, mutable=["batch_stats"])
    report = classify(apply, variables, x, wrt=1, taxonomy="reference")
    leaves = {module.name.removeprefix("Residual/"): module.kind for module in report.modules if module.leaf}
    assert {name for name, kind in leaves.items() if kind == "S"} == {"second", "head"}
    assert report.leaf_modules == {"S": 2, "K": 7}


def test_squeeze_and_excitation_pools():
    """What is pooled comes back to the full size, but behind linear maps."""

    class Squeeze(nn.Module):
        @nn.compact
        def __call__(self, x):
            pooled = Function(lambda x: x.mean((1, 2), keepdims=True), name="pool")(x)
            return x * nn.Conv(6, (1, 1), name="expand")(pooled)

    variables = jax.eval_shape(Squeeze().init, jax.random.key(0), IMAGES)
    found = module_kinds(Squeeze().apply, variables, IMAGES, wrt=1, taxonomy="reference")
    assert found == {"Squeeze/pool": "K", "Squeeze/expand": "S"}


def test_a_line_says_which_kind_erases():
    said = {line.why for line in classify(lambda x: nn.softmax(nn.relu(x)), ROWS, taxonomy="reference").lines}
    assert said == {
        "the reference counts this as preserving",
        "the reference counts activation functions as erasing",
        "the reference counts softmax as erasing",
    }
