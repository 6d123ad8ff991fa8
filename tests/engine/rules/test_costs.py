"""Prices are FLOPs: those of contractions as XLA counts them."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from bwsk_jax.engine.program.jaxprs import trace
from bwsk_jax.engine.rules.costs import cost
from bwsk_jax.engine.rules.devices import Prices, prices_of

X, W = jnp.ones((6, 4)), jnp.ones((4, 5))
CONTRACTIONS = {
    "matrices": (jnp.matmul, X, W),
    "batched": (lambda a, b: jnp.einsum("bij,bkj->bik", a, b), jnp.ones((3, 2, 4)), jnp.ones((3, 5, 4))),
    "two axes": (lambda a, b: jnp.tensordot(a, b, 2), jnp.ones((6, 4, 5)), jnp.ones((4, 5, 2))),
    "convolution": (
        lambda a, b: lax.conv(a, b, (2, 1), "VALID"),
        jnp.ones((2, 3, 9, 8)),
        jnp.ones((4, 3, 3, 2)),
    ),
}


@pytest.mark.parametrize(("fun", "a", "b"), CONTRACTIONS.values(), ids=CONTRACTIONS)
def test_contractions_cost_what_xla_counts(fun, a, b):
    program, _, _ = trace(fun, a, b)
    assert sum(map(cost, program.equations)) == jax.jit(fun).lower(a, b).cost_analysis()["flops"]


def test_each_row_of_a_ragged_product_meets_one_matrix():
    sizes = jnp.array([2, 3, 1])
    program, _, _ = trace(lax.ragged_dot, X, jnp.ones((3, 4, 5)), sizes)
    assert cost(program.equations[-1]) == 2 * X.size * 5


@pytest.mark.parametrize(("features", "groups", "times"), [(4, 4, 32), (4, 2, 1), (1, 1, 1)])
def test_a_convolution_that_sums_over_no_features_is_arithmetic(features, groups, times):
    conv = lambda a, k: lax.conv_general_dilated(a, k, (1, 1), "SAME", feature_group_count=groups)
    image, kernel = jnp.ones((2, features, 6, 6)), jnp.ones((features, features // groups, 3, 3))
    (equation,) = trace(conv, image, kernel)[0].equations
    assert cost(equation, Prices(arithmetic=32.0)) == times * cost(equation)
    assert cost(equation, prices_of("cpu")) == cost(equation)


@pytest.mark.parametrize(("width", "wide"), [(64, False), (4096, True)])
def test_a_product_takes_at_least_as_long_as_its_matrices_take_to_move(width, wide):
    tpu = prices_of("tpu")
    x, w = (jax.ShapeDtypeStruct((rows, width), jnp.bfloat16) for rows in (8192, width))
    (equation,) = trace(jnp.matmul, x, w)[0].equations
    flops, moved = 2.0 * 8192 * width**2, 2 * (2 * 8192 * width + width**2)
    assert (flops > tpu.moved_byte * moved) == wide
    assert cost(equation, tpu) == max(flops, tpu.moved_byte * moved)
    assert cost(equation, prices_of("cpu")) == flops


@pytest.mark.parametrize("reduce", [jnp.sum, jnp.max, jnp.argmin])
def test_a_reduction_takes_as_long_as_its_operand_takes_to_move(reduce):
    equation = trace(lambda x: reduce(x, axis=1), X)[0].equations[-1]
    assert cost(equation, prices_of("tpu")) == prices_of("tpu").moved_byte * X.nbytes
    assert cost(equation, prices_of("cpu")) == X.size


A, B = jnp.ones((3, 4)), jnp.ones((4, 5))


@pytest.mark.parametrize(
    ("function", "args", "flops"),
    [
        (lambda a, b: a @ b, (A, B), 2 * 3 * 4 * 5),
        (lambda a: jnp.einsum("bij,bjk->bik", a, a), (jnp.ones((2, 3, 3)),), 2 * 2 * 27),
        (lambda a: a + 1, (A,), 12),
        (lambda a: jnp.exp(a), (A,), 8 * 12),
        (lambda a: a.T.reshape(12), (A,), 0),
        (lambda a: a.sum(), (A,), 12),
        (lambda a: lax.scan(lambda c, _: (c + 1, None), a, None, length=7)[0], (A,), 7 * 12),
        (lambda a: lax.cond(True, lambda a: a + 1, lambda a: a * 2 + 1, a), (A,), 24),
        (
            lambda a, k: lax.conv_general_dilated(a, k, (1, 1), "VALID"),
            (jnp.ones((1, 2, 6, 6)), jnp.ones((5, 2, 3, 3))),
            2 * (5 * 4 * 4) * (2 * 3 * 3),
        ),
        (
            lambda a, k: lax.conv_general_dilated(a, k, (1, 1), "VALID", feature_group_count=2),
            (jnp.ones((1, 2, 6, 6)), jnp.ones((4, 1, 3, 3))),
            2 * (4 * 4 * 4) * (1 * 3 * 3),
        ),
    ],
    ids=["dot", "batched dot", "add", "exp", "layout", "sum", "scan", "cond", "conv", "grouped conv"],
)
def test_flops(function, args, flops):
    program, _, _ = trace(function, *args)
    assert sum(map(cost, program.equations)) == pytest.approx(flops)
