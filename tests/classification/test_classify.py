"""What `classify` takes and refuses, and how it counts the values that are handed on."""

import jax.numpy as jnp
import numpy as np
import pytest

from bwsk_jax import classify
from tests.support.kinds import X


@pytest.mark.parametrize(("wrt", "said"), [(2, "argument 2.* given 2"), ([0, -3], "argument -3")])
def test_what_is_followed_has_to_be_an_argument(wrt, said):
    with pytest.raises(ValueError, match=said):
        classify(jnp.multiply, X, X, wrt=wrt)
    with pytest.raises(TypeError, match=r"'x'.* number of an argument"):
        classify(jnp.multiply, X, X, wrt="x")


def test_numbers_of_arguments_may_be_of_numpy():
    assert classify(jnp.multiply, X, X, wrt=np.int64(1)) == classify(jnp.multiply, X, X, wrt=1)


def test_another_taxonomy_is_refused_by_name():
    with pytest.raises(ValueError, match=r"'stricter'.*strict.*reference"):
        classify(jnp.exp, X, taxonomy="stricter")


def test_an_unused_argument_is_dropped():
    assert classify(lambda x, y: x + 1, X, X).values == {"B": 2, "W": 0, "K": 1}


def test_a_value_used_twice_is_w():
    assert classify(lambda x: jnp.exp(x) + x, X).values == {"B": 2, "W": 1, "K": 0}
