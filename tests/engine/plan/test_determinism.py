"""The same function gets the same plan: in every process, on a busy machine, whatever the clock says."""

import contextlib
import itertools
import logging
import math
import os
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import pytest

import bwsk_jax
from bwsk_jax.engine.plan import milp, solver
from bwsk_jax.engine.plan.plan import Limit, PlanError, check_plan
from bwsk_jax.engine.plan.problem import call_problem, scan_problem
from bwsk_jax.engine.plan.solver import solve
from bwsk_jax.engine.program import jaxprs
from bwsk_jax.engine.program.scan_body import trace_body
from bwsk_jax.engine.program.vjp import trace_vjp
from tests.support.unrolled import couplings_to_scan

INF = math.inf
struct = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)


def problem(count):
    """Of one iteration of that many couplings."""
    return scan_problem(trace_body(*couplings_to_scan(count), None)[0])


def chain(count):
    """The problem of a call of that many residual blocks, which is hard for its size."""

    def blocks(x, w):
        for k in range(count):
            x = (jnp.tanh(x) @ w if k % 5 == 0 else jnp.sin(x) * (1.0 + k / 250)) + x * 0.5
        return x

    program, *_ = jaxprs.trace(blocks, struct(4, 8), struct(8, 8))
    return call_problem(trace_vjp(program))


def same(one, two):
    return one.portable == two.portable


# --- processes, hash seeds, load ---------------------------------------------------------------------------


@contextlib.contextmanager
def a_busy_machine():
    """As many processes as there are processors, which do nothing but keep them busy."""
    spin = [sys.executable, "-c", "while True: pass"]
    spinning = [subprocess.Popen(spin) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def planning_elsewhere(count, seed):
    """Another process with this hash seed, which makes and prints plans."""
    command = [sys.executable, "-m", "tests.support.unrolled", str(count)]
    environment = {**os.environ, "PYTHONHASHSEED": seed, "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def printed(process):
    lines = process.communicate()[0].splitlines()
    assert process.returncode == 0
    return lines


@pytest.mark.slow
def test_two_processes_make_the_same_plans_idle_and_busy():
    idle = printed(planning_elsewhere(12, "1"))
    assert len(set(idle)) >= 4
    with a_busy_machine():
        assert printed(planning_elsewhere(12, "2")) == idle


@pytest.mark.slow
def test_two_processes_make_the_same_plans_side_by_side():
    both = [planning_elsewhere(100, seed) for seed in "12"]
    one, other = map(printed, both)
    assert one == other and len(set(one)) >= 4


def test_a_clock_that_runs_away_changes_nothing(monkeypatch):
    found = problem(4)
    plans = [solve([found], limit) for limit in (Limit(), Limit(INF))]
    days = itertools.count(0, 86400)
    monkeypatch.setattr(time, "monotonic", lambda: next(days))
    assert all(map(same, plans, [solve([found], limit) for limit in (Limit(), Limit(INF))]))


# --- what is too large to be searched -----------------------------------------------------------------------


def test_a_hundred_unrolled_couplings_save_nothing():
    found = problem(100)
    assert len(found.steps) > solver.MOST_STEPS
    plan = solve([found], Limit(INF))
    assert plan.saved_bytes == 0 and plan.inverted >= 200 and plan.gap == 0


@pytest.mark.slow
def test_a_hundred_unrolled_couplings_save_no_more_with_inverses():
    """With some versions of JAX they save less, where the limit leaves room for what the inverses cost."""
    found = problem(100)
    plan, replaying = solve([found], Limit()), solve([found.without(lambda s: s.inverts)], Limit())
    assert plan.saved_bytes <= replaying.saved_bytes
    assert plan.overhead <= 0.03


@pytest.mark.parametrize(
    "limit",
    [Limit(), pytest.param(Limit(0.2), marks=pytest.mark.slow), Limit(INF), Limit(None, 2000)],
    ids=str,
)
@pytest.mark.parametrize("most_steps", [0, 600])
def test_a_large_problem_is_never_worse_off_with_inverses(limit, most_steps, monkeypatch):
    monkeypatch.setattr(solver, "MOST_STEPS", most_steps)
    for found in (problem(6), chain(12)):
        plan = solve([found], limit)
        check_plan(plan)
        replaying = solve([found.without(lambda s: s.inverts)], limit)
        if limit.max_bytes is None:
            assert plan.saved_bytes <= replaying.saved_bytes
            assert plan.overhead <= limit.max_overhead + 1e-9
        else:
            assert plan.saved_bytes <= limit.max_bytes
            assert plan.overhead <= replaying.overhead + 1e-9


def test_too_few_bytes_name_the_least_of_a_large_problem(monkeypatch):
    monkeypatch.setattr(solver, "MOST_STEPS", 0)
    found = chain(12).without(lambda s: not s.inverts and s.cost > 0)
    least = solve([found], Limit(INF))
    assert least.saved_bytes > 0
    with pytest.raises(PlanError, match=f"below the least .*: {least.saved_bytes:,} bytes"):
        solve([found], Limit(None, least.saved_bytes - 1))


# --- messages ----------------------------------------------------------------------------------------------


def test_a_search_that_stops_early_says_how_far_from_the_best_it_may_be(caplog, monkeypatch):
    monkeypatch.setattr(milp, "WORK", 0)
    monkeypatch.setattr(milp, "FEWEST_NODES", 1)
    plan = solve([chain(25)], Limit())
    assert 0 < plan.gap < 0.5
    (told,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert told.name.startswith("bwsk_jax.") and "stopped early" in told.getMessage()
    assert f"up to {plan.gap:.1%} less memory" in told.getMessage()
    assert f"within {plan.gap:.1%} of the best" in str(plan)


def test_the_best_plan_is_not_talked_about(caplog):
    with caplog.at_level(logging.INFO, "bwsk_jax"):
        solve([problem(2)], Limit())
    assert not caplog.records


def test_planning_that_takes_over_two_seconds_is_logged(caplog, monkeypatch):
    assert solver.SLOW == 2.0
    seconds = itertools.count(0, 3)
    monkeypatch.setattr(time, "monotonic", lambda: next(seconds))
    with caplog.at_level(logging.INFO, "bwsk_jax"):
        solve([problem(2)], Limit())
    (told,) = caplog.records
    assert told.levelno == logging.INFO and "planning took 3.0 seconds" in told.getMessage()


# --- the bound is a bound ----------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [Limit(), Limit(INF), Limit(None, 1000)], ids=str)
def test_the_best_plan_is_not_below_the_lower_bound(limit):
    for found in (problem(3), chain(8)):
        plan = solve([found], limit)
        assert plan.gap == 0
        weight_bytes, weight_overhead = limit.weights
        objective = weight_bytes * plan.saved_bytes / found.residual_bytes + weight_overhead * plan.overhead
        assert milp.lower_bound(found, limit) <= objective + 1e-6


def test_what_needs_no_plan_has_no_bound():
    found = call_problem(trace_vjp(jaxprs.trace(lambda x, w: x[::-1] @ w, struct(8, 8), struct(8, 8))[0]))
    assert milp.lower_bound(found, Limit()) == 0
    assert bwsk_jax.plan(lambda x, w: x[::-1] @ w, struct(8, 8), struct(8, 8)).gap == 0
