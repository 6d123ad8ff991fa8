"""Narrow floats that are kept as integers come back, with their derivatives."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bwsk_jax.engine.program.narrow import as_integers, from_integers, is_widened
from bwsk_jax.engine.program.platform import traced_for

NARROW = [jnp.bfloat16, jnp.float16, jnp.float8_e4m3fn, jnp.float8_e5m2]

WIDENED = NARROW[2:] if jax.__version_info__ >= (0, 11) else [jnp.bfloat16, *NARROW[2:]]
"""What XLA's compiler for CPUs holds in wider floats."""


@hypothesis.given(st.sampled_from(NARROW), st.integers(0, 2**32 - 1))
def test_each_pattern_of_bits_comes_back(dtype, seed):
    width = jnp.finfo(dtype).bits
    bits = np.random.default_rng(seed).integers(0, 2**width, (3, 5)).astype(f"uint{width}")
    x = jax.lax.bitcast_convert_type(jnp.asarray(bits), dtype)
    integers = as_integers(x)
    assert integers.nbytes == x.nbytes and jnp.issubdtype(integers.dtype, jnp.unsignedinteger)
    again = from_integers(integers, x)
    assert again.dtype == dtype
    np.testing.assert_array_equal(as_integers(again), bits)


def test_derivatives_go_around_the_integers():
    x = jnp.linspace(0.5, 2.0, 8, dtype=jnp.bfloat16)
    there_and_back = lambda x: from_integers(as_integers(x), x, like=x)
    f = lambda g: lambda x: jnp.sin(g(x)).astype(jnp.float32).sum()
    np.testing.assert_array_equal(jax.grad(f(there_and_back))(x), jax.grad(f(lambda x: x))(x))
    np.testing.assert_array_equal(jax.hessian(f(there_and_back))(x), jax.hessian(f(lambda x: x))(x))
    assert (jax.grad(f(lambda x: from_integers(as_integers(x), x)))(x) == 0).all()


@pytest.mark.parametrize("dtype", NARROW)
def test_only_a_cpu_widens_and_only_narrow_floats(dtype):
    for platform in ("cpu", "tpu", "gpu"):
        with traced_for(platform):
            widened = platform == "cpu" and dtype in WIDENED
            assert is_widened(jax.ShapeDtypeStruct((3,), dtype)) is widened
            for wide in (jnp.float32, jnp.complex64, jnp.int8, jnp.uint16, jnp.bool_):
                assert not is_widened(jax.ShapeDtypeStruct((3,), wide))
            assert not is_widened(jax.eval_shape(lambda: jax.random.key(0)))
