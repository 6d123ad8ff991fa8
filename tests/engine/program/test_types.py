"""What a type says of its values."""

import jax
import jax.numpy as jnp
import pytest

from bwsk_jax.engine.program.types import nbytes


@pytest.mark.parametrize(
    ("aval", "size"),
    [
        (jax.ShapeDtypeStruct((3, 4), jnp.bfloat16), 24),
        (jax.ShapeDtypeStruct((), jnp.float32), 4),
        (jax.ShapeDtypeStruct((5,), bool), 5),
        (jax.ShapeDtypeStruct((0, 7), jnp.float32), 0),
        (jax.eval_shape(lambda: jax.random.key(0, impl="threefry2x32")), 8),
        (jax.eval_shape(lambda: jax.random.key(0, impl="rbg")), 16),
    ],
)
def test_bytes_of_a_value(aval, size):
    assert nbytes(aval) == size
