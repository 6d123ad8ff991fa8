"""Booleans that are packed come back, and take a bit each."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np

from bwsk_jax.engine.program.bits import is_packed, kept_nbytes, pack, unpack

shapes = st.lists(st.sampled_from([1, 2, 3, 5, 8, 16, 24]), max_size=4).map(tuple)


@hypothesis.given(shapes, st.integers(0, 2**32 - 1))
def test_what_is_packed_comes_back(shape, seed):
    x = np.random.default_rng(seed).random(shape) < 0.5
    aval = jax.ShapeDtypeStruct(shape, bool)
    packed = pack(jnp.asarray(x))
    assert packed.dtype == jnp.uint8
    np.testing.assert_array_equal(unpack(packed, aval), x)
    if is_packed(aval):
        assert packed.nbytes == kept_nbytes(aval) == -(-x.size // 8)


def test_a_mapped_axis_is_packed_element_by_element():
    x = jax.random.bernoulli(jax.random.key(0), 0.5, (3, 4, 16, 5))
    one = jax.ShapeDtypeStruct(x.shape[1:], bool)
    there_and_back = jax.vmap(lambda x: unpack(pack(x), one))
    np.testing.assert_array_equal(jax.jit(there_and_back)(x), x)


def test_only_booleans_are_packed():
    for dtype in (jnp.float32, jnp.int8, jnp.uint8):
        assert not is_packed(jax.ShapeDtypeStruct((16,), dtype))
    assert not is_packed(jax.eval_shape(lambda: jax.random.key(0)))
    assert kept_nbytes(jax.ShapeDtypeStruct((0, 8), bool)) == 0
