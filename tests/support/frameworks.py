"""What the tests of all frameworks share: limits, and a comparison with plain as the oracle."""

import contextlib

import jax
import pytest

import bwsk_jax
from tests.support.parity import assert_same

LEAST = {"max_overhead": bwsk_jax.LEAST_MEMORY}
LIMITS = {
    "least memory": LEAST,
    "default": {},
    "all saved": {"max_overhead": 0},
    "replaying": LEAST | {"invert": False},
}
every_limit = pytest.mark.parametrize(
    "limits",
    [
        pytest.param(how, id=name, marks=() if how is LEAST else pytest.mark.slow)
        for name, how in LIMITS.items()
    ],
)
every_other = pytest.mark.parametrize("other", ["plain", pytest.param("remat", marks=pytest.mark.slow)])


def promotion_as_the_libraries_have_it():
    """A fixture for every test of a file."""

    @pytest.fixture(autouse=True)
    def promotion():
        with jax.numpy_rank_promotion("allow"):
            yield

    return promotion


def agree(ours, plain, *args, rtol=1e-4):
    """Both give the same results."""
    assert_same(jax.jit(ours)(*args), jax.jit(plain)(*args), rtol)


@contextlib.contextmanager
def naming(sibling):
    """What is done within is refused in one line that names the lifted sibling."""
    with pytest.raises(TypeError) as refused:
        yield
    message = str(refused.value)
    assert f"bwsk_jax.frameworks.{sibling}" in message and "\n" not in message
