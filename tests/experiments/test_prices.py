"""The planner's prices, compared with the clock of the machine here."""

import jax.numpy as jnp
import pytest

from bwsk_jax.targets import find_target
from experiments.families import FAMILIES, Size, prices
from experiments.families.measure import abstract
from tests.support.compilers import on_tpu

SMALL = Size(batch=2, time=8, width=32, layers=3)


@pytest.mark.slow
def test_plans_that_differ_are_measured_each():
    stack = abstract(FAMILIES["RevNet"], jnp.float32, SMALL)
    plans = prices.plans_of(stack, find_target())
    assert len({(plan.saved, plan.steps) for plan in plans}) == len(plans) > 2
    pairs = prices.measured("RevNet", jnp.float32, SMALL, None, rounds=1)
    assert [predicted for predicted, _ in pairs] == [plan.time for plan in plans]
    assert all(taken > 0 for _, taken in pairs)


def test_prices_that_rank_plans_as_they_are_found_correlate():
    assert prices.correlation([[0.1, 5.0], [0.2, 6.0], [0.9, 7.0]]) == 1.0
    assert prices.correlation([[0.1, 7.0], [0.2, 6.0], [0.9, 5.0]]) == -1.0
    text = prices.table({"x": [[0.1, 5.0], [0.2, 6.0]], "y": [[0.1, 6.0], [0.2, 5.0]]})
    assert text.splitlines()[-3:] == ["| x | 2 | 1.00 |", "| y | 2 | -1.00 |", "| median | | 0.00 |"]


@on_tpu
def test_plans_for_another_machine_are_priced_for_it():
    stack = abstract(FAMILIES["leapfrog"], jnp.float32, SMALL)
    assert {plan.problem.traffic for plan in prices.plans_of(stack, find_target())} == {0.0}
    assert all(plan.problem.traffic > 100 for plan in prices.plans_of(stack, find_target("v5e")))
