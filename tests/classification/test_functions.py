"""Functions of several equations are found where they are computed, and their inverses give x back."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bwsk_jax import classify
from bwsk_jax.classification.bodies import UNMERGED
from bwsk_jax.classification.functions import FUNCTIONS
from bwsk_jax.classification.values import Role, ValueInfo
from bwsk_jax.engine.program.jaxprs import trace
from tests.support.kinds import X, module_kinds


def found(fun, *avals):
    program, _, _ = trace(fun, *avals, **UNMERGED)
    return [each.function.name for each in ValueInfo(program, [Role.ARGUMENT] * len(avals)).functions]


PRESERVING = {
    "softplus": jax.nn.softplus,
    "logaddexp": lambda x: jnp.logaddexp(x, 0.0),
    "log_sigmoid": jax.nn.log_sigmoid,
    "leaky_relu": jax.nn.leaky_relu,
    "leaky_relu with a slope": lambda x: jax.nn.leaky_relu(x, 0.3),
    "leaky_relu by hand": lambda x: jnp.where(x > 0, x, x * 0.1),
    "leaky_relu as a maximum": lambda x: jnp.maximum(0.2 * x, x),
    "elu": jax.nn.elu,
    "elu with alpha": lambda x: jax.nn.elu(x, 0.7),
    "selu": jax.nn.selu,
    "celu": lambda x: jax.nn.celu(x, 0.7),
    "soft_sign": jax.nn.soft_sign,
    "squareplus": jax.nn.squareplus,
    "scaled and shifted": lambda x: 2.0 * jax.nn.softplus(3.0 * x + 1.0) - 4.0,
}
ERASING = {
    "relu": (jax.nn.relu, -1.0, -2.0),
    "relu6": (jax.nn.relu6, -1.0, -2.0),
    "negative slope": (lambda x: jax.nn.leaky_relu(x, -0.5), 1.0, -2.0),
    "no slope": (lambda x: jax.nn.leaky_relu(x, 0.0), -1.0, -2.0),
    "another threshold": (lambda x: jnp.where(x > 1.0, x, 2.0 * x), 0.75, 1.5),
    "another branch": (lambda x: jnp.where(x > 0, 0.5 * x, 0.0), -1.0, -2.0),
    "maximum with a negative multiple": (lambda x: jnp.maximum(x, -0.5 * x), 1.0, -2.0),
    "elu with a negative alpha": (lambda x: jax.nn.elu(x, -1.0), float(np.log(0.5)), 0.5),
    "two thresholds": (lambda x: jnp.logaddexp(x, -x), 1.0, -1.0),
}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", PRESERVING)
def test_a_module_of_a_function_that_preserves_is_s(name, dtype):
    x = jax.ShapeDtypeStruct((4, 8), dtype)
    assert module_kinds(jax.named_scope("activation")(PRESERVING[name]), x) == {"activation": "S"}


@pytest.mark.parametrize("name", ERASING)
def test_a_module_of_one_that_only_looks_alike_is_k(name):
    call, first, second = ERASING[name]
    assert module_kinds(jax.named_scope("activation")(call), X) == {"activation": "K"}
    np.testing.assert_allclose(call(jnp.float32(first)), call(jnp.float32(second)), rtol=1e-6)


@pytest.mark.parametrize("k", range(len(FUNCTIONS)), ids=[function.name for function in FUNCTIONS])
@pytest.mark.parametrize("constant", [0.05, 0.7, 1.0, 2.5])
def test_the_inverse_of_a_function_gives_x_back_and_the_function_increases(k, constant):
    function = FUNCTIONS[k]
    more = (jnp.float32(constant),) if function.has_constant else ()
    drawn = np.sort(np.random.default_rng(0).uniform(-4, 4, 1000))
    x = jnp.asarray(drawn * min(constant, 1.0), jnp.float32)  # celu(x, c) is near its limit for x < -4 c
    y = function.call(x, *more)
    assert (jnp.diff(y) >= 0).all() and y[0] < y[500] < y[-1]
    np.testing.assert_allclose(function.inverse(y, *more), x, rtol=1e-4, atol=1e-4)


def test_a_function_is_known_only_by_all_of_its_equations():
    assert found(jax.nn.softplus, X) == ["softplus"]
    assert found(jax.nn.mish, X) == ["softplus"]
    assert found(lambda x: jax.nn.leaky_relu(x) + jax.nn.leaky_relu(x, 0.5), X) == ["leaky_relu"] * 2
    for other in (jax.nn.gelu, jax.nn.relu, jax.nn.silu, jax.nn.softmax, jnp.exp):
        assert found(other, X) == []
    assert found(lambda x, y: jnp.where(x > 0, x, 0.5 * y), X, X) == []
    assert found(lambda x, y: jnp.where(y > 0, x, 0.5 * x), X, X) == []
    assert found(lambda x: jnp.logaddexp(x, 1.0), X) == []


def test_a_learned_slope_is_side_information():
    x = jnp.ones((4, 8))
    prelu = nn.PReLU()
    params = prelu.init(jax.random.key(0), x)
    assert module_kinds(prelu.apply, params, x, wrt=1) == {"PReLU": "S"}
    assert module_kinds(prelu.apply, params, x) == {"PReLU": "S"}


def test_the_equations_inside_still_erase():
    kinds = [line.kind for line in classify(jax.nn.leaky_relu, X).lines]
    assert kinds == ["K", "S", "K"]  # comparison, product, choice
