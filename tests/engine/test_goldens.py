"""The plans are the recorded ones, so that a change meant to leave them alone is seen to do so."""

import jax
import pytest

from tests.support import goldens
from tests.support.families import EVERY_DAY

PLANNERS = goldens.planners()
RECORDED = goldens.recorded()
QUICK = {name for name in PLANNERS if name.startswith("case: ") or name.rpartition(", ")[0] in EVERY_DAY}


@pytest.fixture(autouse=True)
def promotion_as_the_libraries_have_it():
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.skipif(jax.__version__ != RECORDED["jax"], reason="jaxprs differ between versions of JAX")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in PLANNERS]
)
def test_plans_are_as_recorded(name):
    for limit, options in goldens.LIMITS.items():
        assert goldens.digest(PLANNERS[name](**options)) == RECORDED[name][limit], limit
