"""Plans are as good as a brute-force search finds, stable, monotone; what cannot be done is refused."""

import dataclasses
import functools
import itertools
import math

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import pytest
from jax.ad_checkpoint import checkpoint_name

import bwsk_jax
from bwsk_jax.engine.plan import solver
from bwsk_jax.engine.plan.plan import Limit, Plan, PlanError, check_plan
from bwsk_jax.engine.plan.problem import scan_problem, scan_problems
from bwsk_jax.engine.plan.solver import solve
from bwsk_jax.engine.program.platform import traced_for
from bwsk_jax.engine.program.scan_body import trace_iteration
from bwsk_jax.engine.rules.exactness import Grade, Taint
from tests.support.damage import damaged

INF = math.inf
struct = lambda *shape, dtype=jnp.float32: jax.ShapeDtypeStruct(shape, dtype)


def coupling(carry, w):
    a = carry[0] + jnp.tanh(carry[1] @ w)
    return (a, carry[1] + jnp.sin(a @ w)), None


def normalised(c, w):
    h = jnp.tanh(c @ w[0])
    return h * w[1] + w[2], None


def mixed_precision(c, w):
    h = c.astype(jnp.bfloat16) @ w.astype(jnp.bfloat16)
    n = h.astype(jnp.float32)
    return (n - n.mean(-1, keepdims=True)) * 0.5, jnp.exp(n).sum()


def gated(c, w):
    h = c @ w
    return jnp.where(h > 0, h, 0.1 * h) * jax.nn.sigmoid(h), None


def residual(c, w):
    return c + jnp.tanh(c) * w, jnp.sin(c)


HALF, SQUARE = struct(4, 8), struct(8, 8)
PRODUCT = 4 * 8 * 8
"""Bytes of a product in `normalised`, within which a plan needs a guard to take the least time."""
BODIES = {
    "coupling": (coupling, (HALF, HALF), SQUARE),
    "normalised": (normalised, struct(8, 8), struct(3, 8, 8)),
    "mixed precision": (mixed_precision, HALF, SQUARE),
    "gated": (gated, HALF, SQUARE),
    "residual": (residual, HALF, HALF),
}


def scanned(name, length=1):
    body, carry, x = BODIES[name]
    return body, carry, struct(length, *x.shape)


def problem(name, **options):
    return scan_problem(trace_iteration(*BODIES[name]), **options)


every_body = pytest.mark.parametrize("name", BODIES)


# --- limits --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call", [bwsk_jax.plan_scan, bwsk_jax.reversible_scan], ids=["plan_scan", "reversible_scan"]
)
def test_both_limits_are_too_many(call):
    with pytest.raises(ValueError, match="max_overhead or max_bytes, not both"):
        call(residual, jnp.ones((4, 8)), jnp.ones((2, 4, 8)), max_overhead=0.1, max_bytes=10)


def test_both_limits_are_too_many_for_a_call():
    with pytest.raises(ValueError, match="max_overhead or max_bytes, not both"):
        bwsk_jax.reversible(jnp.sin, max_overhead=0.1, max_bytes=10)
    with pytest.raises(ValueError, match="max_overhead or max_bytes, not both"):
        bwsk_jax.plan(jnp.sin, HALF, max_overhead=0.1, max_bytes=10)


@pytest.mark.parametrize("limit", [{"max_overhead": -0.1}, {"max_bytes": -1}, {"max_overhead": math.nan}])
def test_a_limit_is_not_negative(limit):
    with pytest.raises(ValueError, match="must not be negative"):
        Limit(**limit)


@pytest.mark.parametrize("limit", [{"max_overhead": "3%"}, {"max_bytes": "1GiB"}])
def test_a_limit_is_a_number(limit):
    with pytest.raises(TypeError, match="must be a number, got '"):
        Limit(**limit)


@pytest.mark.parametrize(
    ("call", "count"),
    [
        (bwsk_jax.plan_scan, {"save_every": 0}),
        (bwsk_jax.frontier, {"save_every": -1}),
        (bwsk_jax.frontier, {"points": 1}),
    ],
)
def test_counts_are_not_too_small(call, count):
    with pytest.raises(ValueError, match=f"{next(iter(count))} must be at least"):
        call(*scanned("gated"), **count)


def test_the_default_limit_is_three_percent():
    assert Limit() == Limit(max_overhead=0.03)


@every_body
def test_too_few_bytes_name_the_least(name):
    found = problem(name)
    least = solve([found], Limit(max_overhead=INF)).saved_bytes
    if least > 0:
        with pytest.raises(PlanError, match=f"{least:,} bytes"):
            solve([found], Limit(max_bytes=least - 1))
    assert solve([found], Limit(max_bytes=least)).saved_bytes == least


def test_where_nothing_is_found_the_plan_is_that_of_plain_autodiff(monkeypatch):
    monkeypatch.setattr(solver, "integer_program", lambda *args, **options: (None, 0.0))
    plan = solve([problem("normalised")], Limit())
    assert set(plan.saved) == set(plan.problem.targets) - plan.problem.free_steps.keys()
    assert plan.overhead == 0.0 and plan.gap > 0
    check_plan(plan)


@every_body
@pytest.mark.parametrize("invert", [True, False])
def test_more_recomputation_never_costs_memory(name, invert):
    plans = [
        solve([problem(name, invert=invert)], Limit(max_overhead=m)) for m in (0, 0.005, 0.02, 0.1, 0.4, INF)
    ]
    sizes = [p.saved_bytes for p in plans]
    assert sizes == sorted(sizes, reverse=True)
    assert all(p.overhead <= m + 1e-9 for p, m in zip(plans, (0, 0.005, 0.02, 0.1, 0.4, INF), strict=True))


@every_body
@pytest.mark.parametrize("invert", [True, False])
def test_more_memory_never_costs_recomputation(name, invert):
    found = problem(name, invert=invert)
    least, most = solve([found], Limit(max_overhead=INF)).saved_bytes, found.residual_bytes
    limits = [least + (most - least) * k // 5 for k in range(6)]
    plans = [solve([found], Limit(max_bytes=m)) for m in limits]
    costs = [p.overhead for p in plans]
    assert all(a >= b - 1e-9 for a, b in itertools.pairwise(costs))
    assert all(p.saved_bytes <= m for p, m in zip(plans, limits, strict=True))


@every_body
def test_inverses_never_cost_memory(name):
    for m in (0.0, 0.02, INF):
        with_inverses = solve([problem(name)], Limit(max_overhead=m)).saved_bytes
        assert with_inverses <= solve([problem(name, invert=False)], Limit(max_overhead=m)).saved_bytes


@every_body
def test_no_inverses_where_none_are_allowed(name):
    assert solve([problem(name, invert=False)], Limit(max_overhead=INF)).inverted == 0


@every_body
def test_zero_recomputation_keeps_no_more_than_autodiff(name):
    found = bwsk_jax.plan_scan(*scanned(name), max_overhead=0.0)
    assert found.saved_bytes <= found.residual_bytes


def test_a_carry_that_is_read_by_another_name_is_read():
    def body(c, w):
        named = checkpoint_name(c, "input")
        return jnp.tanh(named @ w), None

    assert {p.handed for p in scan_problems(trace_iteration(body, HALF, SQUARE))} == {(0,)}


@pytest.mark.parametrize("limit", [{}, {"max_overhead": INF}, {"invert": False}])
def test_what_nothing_reads_of_the_carry_is_not_kept(limit):
    def body(carry, w):
        h, total = carry
        h = jnp.tanh(h @ w)
        return (h, total + h), None

    found = bwsk_jax.plan_scan(body, (HALF, HALF), struct(6, 8, 8), **limit)
    alone = bwsk_jax.plan_scan(lambda h, w: (jnp.tanh(h @ w), None), HALF, struct(6, 8, 8), **limit)
    assert found.problem.handed == (0,)
    assert (found.saved_bytes, len(found.steps)) == (alone.saved_bytes, len(alone.steps))


def test_a_coupling_saves_nothing_at_all():
    found = bwsk_jax.plan_scan(coupling, (HALF, HALF), struct(1, 8, 8), max_overhead=INF)
    assert (found.saved_bytes, found.inverted) == (0, 2)


@every_body
def test_the_same_function_gets_the_same_plan(name):
    one, two = (solve([problem(name)], Limit()) for _ in range(2))
    assert [one.saved, one.steps, one.fallback] == [two.saved, two.steps, two.fallback]


@every_body
def test_the_frontier_runs_from_least_memory_to_least_recomputation(name):
    plans = bwsk_jax.frontier(*scanned(name), points=5)
    assert len(plans) <= 5
    assert all(
        a.saved_bytes < b.saved_bytes and a.overhead > b.overhead for a, b in itertools.pairwise(plans)
    )
    least = solve(scan_problems(trace_iteration(*BODIES[name])), Limit(max_overhead=INF))
    assert plans[0].saved_bytes == least.saved_bytes


def test_a_plan_prints_every_value_with_its_equation_and_source_line():
    text = str(bwsk_jax.plan_scan(*scanned("normalised"), max_bytes=PRODUCT))
    assert "inverted (guarded)" in text and "where a guard refuses" in text
    assert "test_solver.py" in text and "saved" in text and "replayed" in text


@pytest.mark.parametrize("overhead", [0.0, 0.03, INF])
def test_what_costs_nothing_needs_no_program(overhead):
    found = bwsk_jax.plan(lambda x, w: x[::-1] @ w, SQUARE, SQUARE, max_overhead=overhead)
    assert (found.saved_bytes, found.overhead) == (0, 0.0)


# --- what can go wrong with a plan ---------------------------------------------------------------------


@functools.cache
def solved(name, limit):
    return solve([problem(name)], limit)


@hypothesis.given(st.sampled_from(sorted(BODIES)), st.sampled_from([0.0, 0.03, INF]), st.data())
def test_a_damaged_plan_is_rejected(name, overhead, data):
    good = solved(name, Limit(overhead))
    check_plan(good)
    with pytest.raises(PlanError):
        check_plan(damaged(good, data))


def test_a_guarded_plan_needs_a_fallback():
    good = solved("normalised", Limit(None, PRODUCT))
    assert good.fallback is not None
    with pytest.raises(PlanError, match="used without"):
        check_plan(dataclasses.replace(good, fallback=None))


def test_a_fallback_may_not_use_what_needs_a_guard():
    good = solved("normalised", Limit(None, PRODUCT))
    with pytest.raises(PlanError, match="needs a guard"):
        check_plan(dataclasses.replace(good, fallback=good.steps))


def test_an_inexact_value_may_not_be_compared():
    found = scan_problem(trace_iteration(lambda c, w: (c + w, jnp.where(c > 0, c, 0.0)), HALF, HALF))
    (carry_in,) = found.carry_in
    (invert,) = [s for s in found.steps if s.inverts and carry_in in s.writes]
    replays = (*found.free_steps.values(), *(s for s in found.steps if not s.inverts))
    assert any(carry_in in found.exact_reads(Taint.INEXACT, s) for s in replays)
    check_plan(Plan(found, (carry_in,), replays, None))
    with pytest.raises(PlanError, match="rounding would show"):
        check_plan(Plan(found, (), (invert, *replays), None))


# --- inverses pay --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["coupling", "normalised"])
def test_inverses_save_fewer_bytes_at_the_same_recomputation(name):
    limit = Limit(max_overhead=0.1)
    found, replayed = solve([problem(name)], limit), solve([problem(name, invert=False)], limit)
    assert found.saved_bytes < replayed.saved_bytes


def worth(plan, limit):
    weight_bytes, weight_overhead = limit.weights
    return weight_bytes * plan.saved_bytes / plan.residual_bytes / weight_overhead + plan.overhead


LIMITS = [Limit(0.0), Limit(0.03), Limit(0.2), Limit(0.4), Limit(INF), Limit(None, 300), Limit(None, 600)]


@every_body
@pytest.mark.parametrize("limit", LIMITS, ids=str)
def test_an_inverse_wins_by_a_margin_or_is_not_used(name, limit):
    """In units of recomputation. An inverse that draws level would be rounding, and a guard, for nothing."""
    found, replayed = solve([problem(name)], limit), solve([problem(name, invert=False)], limit)
    if not found.inverted:
        assert (found.saved_bytes, found.overhead) == (replayed.saved_bytes, replayed.overhead)
        return
    margin = solver.MARGIN if found.fallback is None else solver.GUARD_MARGIN
    if found.fallback is not None and limit.max_overhead not in (None, INF):
        margin = solver.GUARD_BYTES / limit.weights[1]
    assert worth(found, limit) <= worth(replayed, limit) - margin * (1 - 1e-6)


def test_a_guarded_inverse_saves_a_replay_where_the_data_allow_it():
    """The affine part of a layer gives back what it was applied to, unless the scale is 0."""
    limit = Limit(None, PRODUCT)
    found, replayed = (solve([problem("normalised", invert=invert)], limit) for invert in (True, False))
    assert found.guarded_steps and found.saved_bytes == replayed.saved_bytes
    assert found.overhead < replayed.overhead / 5
    assert found.fallback_overhead == pytest.approx(replayed.overhead)
    assert "32.05% where a guard refuses" in str(found)


@every_body
def test_least_memory_has_no_guard(name):
    """The two schedules of a guard take memory of their own while an iteration runs."""
    assert solve([problem(name)], Limit(INF)).fallback is None


def test_what_an_inverse_moves_through_memory_is_priced_where_that_takes_long():
    """A TPU does hundreds of FLOPs while it moves a byte: a guard there costs more than it saves."""
    plans = {}
    for platform in ("cpu", "tpu"):
        with traced_for(platform):
            plans[platform] = bwsk_jax.plan_scan(*scanned("normalised"), max_bytes=PRODUCT)
    assert plans["cpu"].guarded_steps and not plans["tpu"].inverted
    with traced_for("tpu"):
        least = bwsk_jax.plan_scan(coupling, (HALF, HALF), struct(6, 8, 8), max_overhead=INF)
        limited = bwsk_jax.plan_scan(coupling, (HALF, HALF), struct(6, 8, 8), max_overhead=0.03)
    assert least.saved_bytes == 0 and not limited.inverted


def test_nothing_is_divided_by_an_activation_behind_a_guard():
    """Some of its elements are nearly 0 in any data, so that the guard would refuse."""
    gate = lambda c, w: (jnp.tanh(c @ w) * c, None)
    steps = scan_problem(trace_iteration(gate, HALF, SQUARE)).steps
    assert not any(step.grade is Grade.GUARDED for step in steps)


def test_a_call_saves_fewer_bytes_with_inverses():
    def f(x, w, v):
        h = jnp.tanh(x @ w)
        return h.astype(jnp.bfloat16) @ v

    args = struct(16, 64), struct(64, 64), struct(64, 64, dtype=jnp.bfloat16)
    found, replayed = (bwsk_jax.plan(f, *args, invert=i) for i in (True, False))
    assert found.inverted > 0 and found.overhead <= replayed.overhead
    assert found.saved_bytes < replayed.saved_bytes
