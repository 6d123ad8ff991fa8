"""The VJP as a program: JAX's own, in two halves."""

import jax
import jax.numpy as jnp
import numpy as np

from bwsk_jax.engine.program.jaxprs import trace
from bwsk_jax.engine.program.vjp import trace_vjp


def test_the_pullback_of_the_residuals_is_the_vjp():
    def f(x, n, key):
        kept = jax.random.bernoulli(key, 0.5, x.shape)
        return jnp.where(kept, jnp.exp(x), 0).sum(0) * n, n + 1

    x, n, key = jnp.linspace(0.0, 1.0, 12).reshape(3, 4), jnp.asarray(3), jax.random.key(1)
    vjp = trace_vjp(trace(f, x, n, key)[0])
    assert vjp.varied_inputs == (True, False, False) and vjp.varied_outputs == (True, False)
    values = vjp.program.evaluate([x, n, key], vjp.program.outputs)
    (got,) = vjp.pullback(values[vjp.num_outputs :])([jnp.ones(4)])
    np.testing.assert_allclose(got, jax.grad(lambda x: f(x, n, key)[0].sum())(x), rtol=1e-6)
