"""The plans are the recorded ones, so that a change meant to leave them alone is seen to do so."""

import jax
import pytest

from tests.support import goldens

PLANNERS = goldens.planners()
RECORDED = goldens.recorded()


@pytest.fixture(autouse=True)
def promotion_as_the_libraries_have_it():
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.skipif(jax.__version__ != RECORDED["jax"], reason="jaxprs differ between versions of JAX")
@pytest.mark.parametrize("name", PLANNERS)
def test_plans_are_as_recorded(name):
    for limit, options in goldens.LIMITS.items():
        assert goldens.digest(PLANNERS[name](**options)) == RECORDED[name][limit], limit
