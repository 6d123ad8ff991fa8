"""Ways to run a backward pass, measured on the machine here."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from experiments.families import FAMILIES, Size, rivals
from experiments.families.clock import timed

SMALL = Size(batch=2, time=8, width=32, layers=3)


@pytest.fixture(scope="module")
def found():
    return rivals.measured("leapfrog", jnp.float32, SMALL, None, rounds=2)


def test_all_ways_compute_the_same_gradient(found):
    policies, plans = set(rivals.STOCK), set(rivals.LIMITS)
    assert set(found) == policies | plans | {f"{plan}, without inverses" for plan in plans}
    assert all(figures["error"] < 1e-5 and figures["time"] > 0 for figures in found.values())
    assert found[rivals.PLAIN]["error"] == 0 and found[rivals.PLAIN]["time"] == 1


def test_narrow_types_are_judged_against_float32():
    """And a scan that computes something else is noticed."""
    double = lambda tree: jax.tree.map(lambda a: 2 * a, tree)
    wrong = lambda body, init, xs: lax.scan(lambda c, x: body(c, double(x)), init, xs)
    figures = timed(FAMILIES["leapfrog"], jnp.bfloat16, SMALL, {"plain": lax.scan, "wrong": wrong}, 1)
    assert 1e-4 < figures["plain"]["error"] < 0.05 < figures["wrong"]["error"]


def test_a_plan_rivals_a_policy_if_it_takes_no_more_time():
    figures = lambda temporaries, time: {"temporaries": temporaries, "cycles": None, "time": time}
    found = {
        "dots_saveable": figures(100, 1.0),
        "plan, 3%": figures(80, 0.9),
        "plan, least": figures(20, 1.1),
    }
    assert rivals.ratio(found, "dots_saveable") == 0.8
