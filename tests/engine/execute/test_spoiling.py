"""Arrays become NaN in place where something has gone wrong, and so do all their derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bwsk_jax
from bwsk_jax.engine.execute.spoiling import spoiled_if

X = jnp.linspace(-1.0, 2.0, 6).reshape(2, 3)
YES, NO = jnp.array(True), jnp.array(False)
cube = lambda lost: lambda x: (spoiled_if(lost, x) ** 3).sum()
DERIVATIVES = {
    "value": lambda f: f(X),
    "gradient": lambda f: jax.grad(f)(X),
    "tangent": lambda f: jax.jvp(f, (X,), (X,))[1],
    "forward over reverse": lambda f: jax.hessian(f)(X),
    "reverse over reverse": lambda f: jax.jacrev(jax.grad(f))(X),
    "transposed": lambda f: jax.linear_transpose(lambda x: jax.linearize(f, X)[1](x), X)(1.0)[0],
}


@pytest.mark.parametrize("how", DERIVATIVES)
@pytest.mark.parametrize("compiled", [True, False])
def test_it_is_the_identity_or_nan_in_every_derivative(how, compiled):
    run = lambda lost: DERIVATIVES[how](jax.jit(cube(lost)) if compiled else cube(lost))
    plain = DERIVATIVES[how](lambda x: (x**3).sum())
    np.testing.assert_array_equal(run(NO), plain)
    assert not np.isfinite(run(YES)).any()


@pytest.mark.parametrize("in_axes", [(0, 0), (0, None), (None, 0), (None, 1)])
def test_it_is_mapped_with_its_verdict_or_its_array(in_axes):
    lost = jnp.array([True, False]) if in_axes[0] == 0 else YES
    array = X if in_axes[1] is not None else X[0]
    found = jax.vmap(spoiled_if, in_axes)(lost, array)
    expected = jax.vmap(lambda lost, x: jnp.where(lost, jnp.nan, x), in_axes)(lost, array)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "complex64"])
def test_types_stay(dtype):
    for lost, spoils in ((YES, True), (NO, False)):
        found = jax.jit(spoiled_if)(lost, X.astype(dtype))
        assert found.dtype == dtype and bool(jnp.isnan(found).all()) == spoils


def test_the_gradient_of_what_is_scanned_over_is_not_held_twice():
    """What a reverse scan takes beside its results does not grow with the layers."""

    def coupling(carry, weights):
        a, b = carry
        return (b, a + jnp.tanh(b @ weights["into"]) @ weights["out"]), None

    def loss(weights, x):
        options = {"max_overhead": bwsk_jax.LEAST_MEMORY}
        (a, b), _ = bwsk_jax.reversible_scan(coupling, (x, 2 * x), weights, **options)
        return (a * b).sum()

    def temporaries(layers):
        weights = {"into": (layers, 32, 64), "out": (layers, 64, 32)}
        types = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in weights.items()}
        program = jax.jit(jax.grad(loss)).lower(types, jax.ShapeDtypeStruct((4, 32), jnp.float32)).compile()
        return program.memory_analysis().temp_size_in_bytes

    assert temporaries(96) - temporaries(32) < 64 * 32 * 64 * 4 / 100
