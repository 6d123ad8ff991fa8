"""Prices are FLOPs: those of contractions as XLA counts them."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from bwsk_jax.engine.program.jaxprs import trace
from bwsk_jax.engine.rules.costs import cost

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
