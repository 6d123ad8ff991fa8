"""Plans are as good as a brute-force search finds, stable, monotone; what cannot be done is refused."""

import dataclasses
import functools
import heapq
import itertools
import math
import time

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import bwsk_jax
from bwsk_jax.engine.plan import api, milp, solver
from bwsk_jax.engine.plan.problem import call_problem
from bwsk_jax.engine.plan.solver import Limit, PlanError, check_plan, solve
from bwsk_jax.engine.program import jaxprs
from bwsk_jax.engine.program.vjp import trace_vjp
from bwsk_jax.engine.rules.inverses import Grade
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
BODIES = {
    "coupling": (coupling, (HALF, HALF), SQUARE),
    "normalised": (normalised, struct(8, 8), struct(3, 8, 8)),
    "mixed precision": (mixed_precision, HALF, SQUARE),
    "gated": (gated, HALF, SQUARE),
    "residual": (residual, HALF, HALF),
}


def problem(name, **options):
    body, carry, x = BODIES[name]
    return api.trace_one(body, carry, x).problem(options.pop("length", 1), options.pop("invert", True))


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
        (bwsk_jax.plan_scan, {"length": 0}),
        (bwsk_jax.frontier, {"length": -1}),
        (bwsk_jax.frontier, {"points": 1}),
    ],
)
def test_counts_are_not_too_small(call, count):
    with pytest.raises(ValueError, match=f"{next(iter(count))} must be at least"):
        call(lambda c, w: (jnp.tanh(c @ w), None), HALF, SQUARE, **count)


def test_the_default_limit_is_three_percent():
    assert Limit() == Limit(max_overhead=0.03)


@every_body
def test_too_few_bytes_name_the_least(name):
    found = problem(name)
    least = solve(found, Limit(max_overhead=INF)).saved_bytes
    if least > 0:
        with pytest.raises(PlanError, match=f"{least:,} bytes"):
            solve(found, Limit(max_bytes=least - 1))
    assert solve(found, Limit(max_bytes=least)).saved_bytes == least


def test_without_time_the_plan_is_that_of_plain_autodiff(monkeypatch):
    monkeypatch.setattr(solver, "integer_program", lambda *args: (None, 0.0))
    plan = solve(problem("normalised"), Limit())
    assert set(plan.saved) == set(plan.problem.targets) - plan.problem.trivial.keys()
    assert plan.overhead == 0.0 and plan.gap > 0
    check_plan(plan)


@every_body
@pytest.mark.parametrize("invert", [True, False])
def test_more_recomputation_never_costs_memory(name, invert):
    plans = [
        solve(problem(name, invert=invert), Limit(max_overhead=m)) for m in (0, 0.005, 0.02, 0.1, 0.4, INF)
    ]
    sizes = [p.saved_bytes for p in plans]
    assert sizes == sorted(sizes, reverse=True)
    assert all(p.overhead <= m + 1e-9 for p, m in zip(plans, (0, 0.005, 0.02, 0.1, 0.4, INF), strict=True))


@every_body
@pytest.mark.parametrize("invert", [True, False])
def test_more_memory_never_costs_recomputation(name, invert):
    found = problem(name, invert=invert)
    least, most = solve(found, Limit(max_overhead=INF)).saved_bytes, found.residual_bytes
    limits = [least + (most - least) * k // 5 for k in range(6)]
    plans = [solve(found, Limit(max_bytes=m)) for m in limits]
    costs = [p.overhead for p in plans]
    assert all(a >= b - 1e-9 for a, b in itertools.pairwise(costs))
    assert all(p.saved_bytes <= m for p, m in zip(plans, limits, strict=True))


@every_body
def test_inverses_never_cost_memory(name):
    for m in (0.0, 0.02, INF):
        with_inverses = solve(problem(name), Limit(max_overhead=m)).saved_bytes
        assert with_inverses <= solve(problem(name, invert=False), Limit(max_overhead=m)).saved_bytes


@every_body
def test_no_inverses_where_none_are_allowed(name):
    assert solve(problem(name, invert=False), Limit(max_overhead=INF)).inverted == 0


def test_zero_recomputation_keeps_no_more_than_autodiff_and_the_carry():
    found = problem("residual")
    carry = sum(found.bytes[v] for v in found.carry_in)
    assert solve(found, Limit(max_overhead=0.0)).saved_bytes <= found.residual_bytes + carry


def test_a_coupling_saves_nothing_at_all():
    found = bwsk_jax.plan_scan(coupling, (HALF, HALF), SQUARE, max_overhead=INF)
    assert (found.saved_bytes, found.inverted) == (0, 2)


@every_body
def test_the_same_function_gets_the_same_plan(name):
    one, two = (solve(problem(name), Limit()) for _ in range(2))
    assert [one.saved, one.steps, one.fallback] == [two.saved, two.steps, two.fallback]


@every_body
def test_the_frontier_runs_from_least_memory_to_least_recomputation(name):
    plans = bwsk_jax.frontier(*BODIES[name], points=5)
    assert len(plans) <= 5
    assert all(
        a.saved_bytes < b.saved_bytes and a.overhead > b.overhead for a, b in itertools.pairwise(plans)
    )
    assert plans[0].saved_bytes == solve(problem(name), Limit(max_overhead=INF)).saved_bytes


def test_a_plan_prints_every_value_with_its_equation_and_source_line():
    text = str(bwsk_jax.plan_scan(*BODIES["normalised"], max_overhead=INF))
    assert "inverted (guarded)" in text and "where a guard refuses" in text
    assert "test_solver.py" in text and "saved" in text and "replayed" in text


@pytest.mark.parametrize("overhead", [0.0, 0.03, INF])
def test_what_costs_nothing_needs_no_program(overhead):
    found = bwsk_jax.plan(lambda x, w: x[::-1] @ w, SQUARE, SQUARE, max_overhead=overhead)
    assert (found.saved_bytes, found.overhead) == (0, 0.0)


# --- what can go wrong with a plan ---------------------------------------------------------------------


@functools.cache
def solved(name, overhead):
    return solve(problem(name), Limit(max_overhead=overhead))


@hypothesis.settings(derandomize=True, deadline=None, max_examples=100)
@hypothesis.given(st.sampled_from(sorted(BODIES)), st.sampled_from([0.0, 0.03, INF]), st.data())
def test_a_damaged_plan_is_rejected(name, overhead, data):
    good = solved(name, overhead)
    check_plan(good)
    with pytest.raises(PlanError):
        check_plan(damaged(good, data))


def test_a_guarded_plan_needs_a_fallback():
    good = solved("normalised", INF)
    assert good.fallback is not None
    with pytest.raises(PlanError, match="used without"):
        check_plan(dataclasses.replace(good, fallback=None))


def test_a_fallback_may_not_use_what_needs_a_guard():
    good = solved("normalised", INF)
    with pytest.raises(PlanError, match="needs a guard"):
        check_plan(dataclasses.replace(good, fallback=good.steps))


def test_an_inexact_value_may_not_be_compared():
    found = api.trace_one(lambda c, w: (c + w, jnp.where(c > 0, c, 0.0)), HALF, HALF).problem(1, True)
    (carry_in,) = found.carry_in
    (invert,) = [s for s in found.steps if s.inverts and carry_in in s.writes]
    replays = (*found.trivial.values(), *(s for s in found.steps if not s.inverts))
    assert any(carry_in in found.sensitive(s) for s in replays)
    check_plan(solver.Plan(found, (carry_in,), replays, None))
    with pytest.raises(PlanError, match="rounding would show"):
        check_plan(solver.Plan(found, (), (invert, *replays), None))


# --- against all plans there are -----------------------------------------------------------------------


def cheapest(problem, saved, guarded=True):
    """The least cost of deriving all targets from the saved values, over every order of every set of steps:
    Dijkstra over what is known and how exactly."""
    targets = set(problem.targets)
    start = (frozenset(problem.free.union(saved)), frozenset(), frozenset())
    queue, best, tick = [(0.0, 0, start)], {start: 0.0}, itertools.count(1)
    while queue:
        cost, _, state = heapq.heappop(queue)
        known, *tainted = state
        if targets <= known:
            return cost
        if cost > best[state]:
            continue
        for step in (*problem.steps, *problem.trivial.values()):
            if (
                not known.issuperset(step.reads)
                or known.issuperset(step.writes)
                or (step.grade is Grade.GUARDED and not guarded)
            ):
                continue
            taints = {"rounded": set(tainted[0]), "narrowed": set(tainted[1])}
            new = _taints(problem, step, taints)
            if new is None:
                continue
            after = (known.union(step.writes), *(frozenset(new[k]) for k in ("rounded", "narrowed")))
            total = cost + step.cost
            if total < best.get(after, INF):
                best[after] = total
                heapq.heappush(queue, (total, next(tick), after))
    return INF


def _taints(problem, step, tainted):
    """What is inexact after one more step, or None where it may not run: from the definition."""
    result = {kind: set(values) for kind, values in tainted.items()}
    for kind, values in tainted.items():
        if values.intersection(problem.sensitive(step)):
            return None
        for v in step.writes:
            spread = any(problem.spreads(step, kind, r, v) for r in step.reads if r in values)
            if spread or kind in problem.taints(step):
                if v in problem.forbidden[kind]:
                    return None
                result[kind].add(v)
    return result


def brute_force(problem, limit):
    """The least objective over all sets of saved values."""
    at_hand = problem.free.union(problem.trivial)
    values = sorted(set(problem.targets).union(*((*s.reads, *s.writes) for s in problem.steps)) - at_hand)
    assert len(values) <= 12, f"{len(values)} values are too many to enumerate"
    least = INF
    for size in range(len(values) + 1):
        for saved in itertools.combinations(values, size):
            total = sum(problem.bytes[v] for v in saved)
            if limit.max_bytes is not None and total > limit.max_bytes:
                continue
            weight_bytes, weight_overhead = milp.weights(limit)
            floor = weight_bytes * total / max(problem.residual_bytes, 1)
            if floor >= least or cheapest(problem, saved, guarded=False) == INF:
                continue
            overhead = cheapest(problem, saved) / max(3 * problem.forward_cost, 1.0)
            if limit.max_overhead is None or overhead <= limit.max_overhead + 1e-9:
                least = min(least, floor + weight_overhead * overhead)
    return least


def objective(plan, limit):
    weight_bytes, weight_overhead = milp.weights(limit)
    return weight_bytes * plan.saved_bytes / max(plan.residual_bytes, 1) + weight_overhead * plan.overhead


SMALL = {
    "sum of two": (lambda c, w: (c + jnp.sin(w), jnp.sin(c)), HALF, HALF),
    "affine": (lambda c, w: (jnp.tanh(c) * w + c.sum(), None), struct(4, 4), struct(4, 4)),
    "dot and tanh": (lambda c, w: (jnp.tanh(c @ w), None), HALF, SQUARE),
    "recovered branch": (lambda c, w: (jnp.tanh(c @ w) + w.sum(), None), HALF, SQUARE),
    "cast": (
        lambda c, w: (jnp.sin(c.astype(jnp.bfloat16) * w).astype(jnp.float32), None),
        HALF,
        struct(4, 8, dtype=jnp.bfloat16),
    ),
    "compared": (lambda c, w: (jnp.maximum(c, 0) + w, None), HALF, HALF),
    "guarded": (lambda c, w: (jnp.exp(c @ w), None), HALF, SQUARE),
    "couple": (lambda c, w: ((c[1], c[0] + jnp.exp(c[1] * w)), None), (HALF, HALF), HALF),
    "wide output": (lambda c, w: (c[:, :4] @ w, jnp.exp(c)), HALF, struct(4, 8)),
}


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(
    "limit", [Limit(0.0), Limit(0.05), Limit(INF), Limit(None, 200), Limit(None, 300)], ids=str
)
def test_the_plan_is_as_good_as_the_best_of_all_plans(name, limit):
    body, carry, x = SMALL[name]
    found = api.trace_one(body, carry, jax.tree.map(lambda a: a, x)).problem(1, True)
    best = brute_force(found, limit)
    if best == INF:
        with pytest.raises(PlanError):
            solve(found, limit)
        return
    plan = solve(found, limit)
    assert objective(plan, limit) == pytest.approx(best, rel=1e-3, abs=1e-6)
    assert plan.gap == 0.0


# --- inverses pay --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["coupling", "normalised"])
def test_inverses_save_fewer_bytes_at_the_same_recomputation(name):
    limit = Limit(max_overhead=0.1)
    found, replayed = solve(problem(name), limit), solve(problem(name, invert=False), limit)
    assert found.saved_bytes < replayed.saved_bytes


def test_a_call_saves_fewer_bytes_with_inverses():
    def f(x, w, v):
        h = jnp.tanh(x @ w)
        return h.astype(jnp.bfloat16) @ v

    args = struct(16, 64), struct(64, 64), struct(64, 64, dtype=jnp.bfloat16)
    found, replayed = (bwsk_jax.plan(f, *args, invert=i) for i in (True, False))
    assert found.inverted > 0 and found.overhead <= replayed.overhead
    assert found.saved_bytes < replayed.saved_bytes


# --- how long it takes ---------------------------------------------------------------------------------


def layer_norm(x, scale, shift):
    mean = x.mean(-1, keepdims=True)
    var = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) * lax.rsqrt(var + 1e-12) * scale + shift


def dropout(x, key):
    return jnp.where(jax.random.bernoulli(key, 0.9, x.shape), x / 0.9, 0.0).astype(x.dtype)


def transformer_layer(x, inputs):
    p, key = inputs
    k1, k2, k3 = jax.random.split(key, 3)
    q, k, v = jnp.einsum("bth,hsnd->sbntd", x, p["qkv"]) + p["bqkv"][:, None, :, None, :]
    probs = dropout(jax.nn.softmax(jnp.einsum("bntd,bnsd->bnts", q, k) / np.sqrt(q.shape[-1]), -1), k1)
    context = jnp.einsum("bnts,bnsd->btnd", probs, v)
    h = layer_norm(x + dropout(jnp.einsum("btnd,ndh->bth", context, p["wo"]) + p["bo"], k2), p["g1"], p["b1"])
    f = jax.nn.gelu(h @ p["w1"] + p["c1"], approximate=False) @ p["w2"] + p["c2"]
    return layer_norm(h + dropout(f, k3), p["g2"], p["b2"]), None


def transformer_inputs(hidden=64, heads=4):
    d = hidden // heads
    shapes = {"qkv": (hidden, 3, heads, d), "bqkv": (3, heads, d), "wo": (heads, d, hidden), "bo": (hidden,)}
    shapes |= {"g1": (hidden,), "b1": (hidden,), "g2": (hidden,), "b2": (hidden,)}
    shapes |= {"w1": (hidden, 4 * hidden), "c1": (4 * hidden,), "w2": (4 * hidden, hidden), "c2": (hidden,)}
    return struct(2, 32, hidden), (
        {k: struct(*s) for k, s in shapes.items()},
        jax.eval_shape(lambda: jax.random.key(0)),
    )


@pytest.mark.parametrize("limit", [Limit(), Limit(INF)], ids=["default", "least memory"])
def test_a_transformer_layer_plans_in_two_seconds(limit):
    with jax.numpy_rank_promotion("allow"):
        found = api.trace_one(transformer_layer, *transformer_inputs()).problem(12, True)
    start = time.process_time()
    solve(found, limit)
    assert time.process_time() - start < 2.0


def long_chain(x, w):
    for k in range(250):
        x = (jnp.tanh(x) @ w if k % 5 == 0 else jnp.sin(x) * (1.0 + k / 250)) + x * 0.5
    return x


@pytest.mark.slow
@pytest.mark.parametrize(
    "limit", [Limit(), Limit(INF), Limit(None, 40_000)], ids=["default", "least memory", "bytes"]
)
@pytest.mark.parametrize("scan", [False, True], ids=["call", "scan"])
def test_a_thousand_equations_plan_in_twenty_seconds_or_say_how_good_they_are(limit, scan):
    if scan:
        found = api.trace_one(lambda c, w: (long_chain(c, w), None), HALF, SQUARE).problem(1, True)
    else:
        found = call_problem(_traced(long_chain, HALF, SQUARE))
    assert len(found.program.equations) >= 1000
    start = time.monotonic()
    plan = solve(found, limit)
    assert time.monotonic() - start < 20.0
    assert plan.gap >= 0.0
    check_plan(plan)


def _traced(fun, *args):
    return trace_vjp(jaxprs.trace(fun, *args)[0])
