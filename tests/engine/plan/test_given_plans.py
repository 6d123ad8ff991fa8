"""A plan can be stored and given: it is followed as it is, and refused where it does not belong."""

import dataclasses
import json
import math
import re
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bwsk_jax
from bwsk_jax import Plan, PlanError
from bwsk_jax.engine.execute import reversible, reversible_scan
from bwsk_jax.engine.plan import api
from bwsk_jax.engine.plan.plan import PortablePlan
from bwsk_jax.engine.program import eager

INF = math.inf
X = jax.random.normal(jax.random.key(0), (4, 8))
WEIGHTS = 0.3 * jax.random.normal(jax.random.key(1), (6, 8, 8))


def coupling(carry, w):
    a = carry[0] + jnp.tanh(carry[1] @ w)
    return (a, carry[1] + jnp.sin(a @ w)), None


def halving(c, w):
    return 0.5 * c + jnp.tanh(w), c * c


def normalised(c, w):
    h = jnp.tanh(c @ w)
    return (h - h.mean(-1, keepdims=True)) * 1.5, h.sum()


def block(x, w):
    return jnp.exp(jnp.tanh(x @ w)) * jax.nn.relu(x)


SCANS = {
    "coupling": (coupling, (X, X), WEIGHTS),
    "halving": (halving, X, jnp.ones((6, 4, 8))),
    "normalised": (normalised, X, WEIGHTS),
}
LIMITS = {"default": {}, "least": {"max_overhead": INF}, "replaying": {"max_overhead": INF, "invert": False}}
every_scan = pytest.mark.parametrize("name", SCANS)
every_limit = pytest.mark.parametrize("limit", LIMITS)


def gradient(name, **options):
    body, init, _ = SCANS[name]
    return lambda xs: jax.grad(
        lambda xs: sum(
            (a**2).sum() for a in jax.tree.leaves(bwsk_jax.reversible_scan(body, init, xs, **options))
        )
    )(xs)


def jaxpr(name, **options):
    return re.sub("0x[0-9a-f]+", "", str(jax.make_jaxpr(gradient(name, **options))(SCANS[name][2])))


@pytest.fixture
def no_search(monkeypatch):
    def searching(problem, limit):
        raise AssertionError("a plan was looked for")

    monkeypatch.setattr(api, "cached_plan", searching)


# --- followed ----------------------------------------------------------------------------------------------


@every_scan
@every_limit
@pytest.mark.parametrize("stored", [False, True], ids=["as it is", "stored"])
def test_a_scan_follows_the_plan_that_it_is_given(name, limit, stored, request):
    plan = bwsk_jax.plan_scan(*SCANS[name], **LIMITS[limit])
    expected = jaxpr(name, **LIMITS[limit])
    given = Plan.from_json(plan.to_json()) if stored else plan
    request.getfixturevalue("no_search")
    assert jaxpr(name, plan=given) == expected


@pytest.mark.parametrize("limit", [{"max_overhead": 0.0}, {"max_overhead": INF}], ids=str)
def test_a_call_follows_the_plan_that_it_is_given(limit, request):
    plan = bwsk_jax.plan(block, X, WEIGHTS[0], **limit)
    expected = jax.grad(lambda x: bwsk_jax.reversible(block, **limit)(x, WEIGHTS[0]).sum())(X)
    request.getfixturevalue("no_search")
    for given in (plan, Plan.from_json(plan.to_json())):
        ours = jax.jit(jax.grad(lambda x, g=given: bwsk_jax.reversible(block, plan=g)(x, WEIGHTS[0]).sum()))(
            X
        )
        np.testing.assert_allclose(ours, expected, rtol=1e-6)


@every_scan
@every_limit
def test_a_plan_comes_back_from_json_as_it_was(name, limit):
    plan = bwsk_jax.plan_scan(*SCANS[name], **LIMITS[limit])
    portable = Plan.from_json(plan.to_json())
    assert portable == plan.portable and portable.to_json() == plan.to_json()
    again = portable.on(plan.problem)
    assert [again.saved, again.steps, again.fallback] == [plan.saved, plan.steps, plan.fallback]
    assert json.loads(plan.to_json())["saved"] == list(plan.saved)


def test_a_gap_is_stored_too():
    plan = dataclasses.replace(bwsk_jax.plan_scan(*SCANS["coupling"]), gap=0.125)
    assert Plan.from_json(plan.to_json()).on(plan.problem).gap == 0.125


# --- refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [{"max_overhead": 0.1}, {"max_bytes": 10}], ids=str)
def test_a_plan_and_a_limit_are_too_many(limit):
    plan = bwsk_jax.plan_scan(*SCANS["coupling"])
    with pytest.raises(ValueError, match="give a plan or a limit, not both"):
        bwsk_jax.reversible_scan(*SCANS["coupling"], plan=plan, **limit)
    with pytest.raises(ValueError, match="give a plan or a limit, not both"):
        bwsk_jax.reversible(block, plan=plan, **limit)


def test_text_is_not_a_plan():
    with pytest.raises(
        TypeError, match=r"what Plan\.from_json returns, or one of jax.checkpoint_policies, got str"
    ):
        bwsk_jax.reversible(block, plan=bwsk_jax.plan(block, X, WEIGHTS[0]).to_json())


@pytest.mark.parametrize("stored", [False, True], ids=["as it is", "stored"])
def test_a_plan_for_another_scan_is_refused(stored):
    plan = bwsk_jax.plan_scan(*SCANS["coupling"])
    with pytest.raises(PlanError, match="for another function"):
        gradient("normalised", plan=Plan.from_json(plan.to_json()) if stored else plan)(WEIGHTS)


def test_a_plan_for_other_types_is_refused():
    plan = bwsk_jax.plan(block, X[:2], WEIGHTS[0])
    with pytest.raises(PlanError, match="for arguments of other types"):
        jax.grad(lambda x: bwsk_jax.reversible(block, plan=plan)(x, WEIGHTS[0]).sum())(X)


def test_a_plan_of_a_call_is_refused_by_a_scan():
    plan = bwsk_jax.plan(lambda c, w: normalised(c, w), X, WEIGHTS[0])
    with pytest.raises(PlanError, match="for another function"):
        gradient("normalised", plan=plan)(WEIGHTS)


def test_a_number_in_the_function_counts():
    """Functions that differ in a literal alone are different functions."""
    plan = bwsk_jax.plan(lambda x: jnp.sin(x) * 2.0, X)
    with pytest.raises(PlanError, match="for another function"):
        jax.grad(lambda x: bwsk_jax.reversible(lambda x: jnp.sin(x) * 3.0, plan=plan)(x).sum())(X)


def test_inverses_are_refused_where_none_are_allowed():
    plan = bwsk_jax.plan_scan(*SCANS["coupling"], max_overhead=INF)
    with pytest.raises(PlanError, match=r"equation \d+, which is not possible here"):
        gradient("coupling", plan=plan, invert=False)(WEIGHTS)


def test_an_inverse_that_amplifies_is_refused_over_too_many_iterations():
    body, init, _ = SCANS["halving"]
    xs = lambda length: jax.ShapeDtypeStruct((length, 4, 8), jnp.float32)
    plan = bwsk_jax.plan_scan(body, init, xs(4), max_overhead=INF)
    assert plan.inverted == 2
    loss = lambda xs: bwsk_jax.reversible_scan(body, init, xs, plan=plan)[0].sum()
    assert jax.eval_shape(jax.grad(loss), xs(8)).shape == (8, 4, 8)
    with pytest.raises(PlanError, match=r"the plan inverts equation \d+, which is not possible here"):
        jax.eval_shape(jax.grad(loss), xs(100))


def damages():
    """What may have happened to a stored plan, and what is said of it."""
    yield "no JSON", lambda fields: "saved: 3", "did not write this"
    yield "no fields", lambda fields: "[]", "did not write this"
    yield "no format", lambda fields: json.dumps({**fields, "format": "other"}), "its format is not"
    yield "no steps", lambda fields: json.dumps({**fields, "steps": None}), "did not write this"
    yield "half a step", lambda fields: json.dumps({**fields, "steps": [[1]]}), "did not write this"
    yield "too few steps", lambda fields: json.dumps({**fields, "steps": fields["steps"][1:]}), "steps: "
    yield "unknown values", lambda fields: json.dumps({**fields, "saved": [10**6]}), "does not have"
    yield "unknown steps", lambda fields: json.dumps({**fields, "steps": [[10**6, 0]]}), "not possible here"


@pytest.mark.parametrize(("damage", "message"), [pytest.param(*d[1:], id=d[0]) for d in damages()])
def test_a_damaged_file_is_refused(damage, message):
    text = bwsk_jax.plan_scan(*SCANS["coupling"], max_overhead=INF).to_json()
    with pytest.raises(PlanError, match=message):
        gradient("coupling", plan=Plan.from_json(damage(json.loads(text))))(WEIGHTS)


# --- plans that describe what will be done ------------------------------------------------------------------


@pytest.fixture
def followed(monkeypatch):
    """The plans that scans and calls follow, as they come; none is remembered from an earlier call."""
    found = []
    monkeypatch.setattr(eager, "_MADE", weakref.WeakKeyDictionary())
    for module in (reversible, reversible_scan):
        monkeypatch.setattr(
            module,
            "plan_for",
            lambda problem, wanted: found.append(api.plan_for(problem, wanted)) or found[-1],
        )
    return found


@every_scan
@every_limit
@pytest.mark.parametrize("save_every", [None, 1, 4, 100])
@pytest.mark.parametrize("abstract", [False, True], ids=["arrays", "types"])
def test_plan_scan_and_reversible_scan_make_the_same_plan(name, limit, save_every, abstract, followed):
    options = {**LIMITS[limit], "save_every": save_every}
    jaxpr(name, **options)
    body, *args = SCANS[name]
    init, xs = jax.eval_shape(lambda: args) if abstract else args
    found = bwsk_jax.plan_scan(body, init, xs, **options)
    assert [plan.portable for plan in followed] == [found.portable]
    assert followed[0].problem.length == found.problem.length == min(save_every or 6, 6)


def test_the_length_decides_which_inverses_are_used():
    xs = jax.ShapeDtypeStruct((100, 4, 8), jnp.float32)
    saved = [
        bwsk_jax.plan_scan(halving, X, xs, max_overhead=INF, save_every=k).saved_bytes for k in (None, 4)
    ]
    assert saved[0] > saved[1] == 0


def test_a_scan_over_nothing_has_a_length():
    body = lambda c, _: (0.5 * jnp.sin(c), None)
    assert bwsk_jax.plan_scan(body, X, None, 7).problem.length == 7
    assert bwsk_jax.frontier(body, X, None, 7)[0].problem.length == 7


@pytest.mark.parametrize("call", [bwsk_jax.plan_scan, bwsk_jax.frontier, bwsk_jax.reversible_scan])
def test_mistakes_are_told_as_lax_scan_tells_them(call):
    with pytest.raises(ValueError, match="disagrees with leading axis sizes"):
        call(coupling, (X, X), WEIGHTS, 5)
    with pytest.raises(ValueError, match="scan got no values to scan over"):
        call(lambda c, _: (c, None), X, None)


@pytest.mark.parametrize("call", [bwsk_jax.plan_scan, bwsk_jax.frontier])
@pytest.mark.parametrize("one", [(WEIGHTS[0], 1.0), (WEIGHTS[0], WEIGHTS)], ids=["a scalar", "two axes"])
def test_what_one_iteration_sees_is_understood_where_no_scan_would_take_it(call, one):
    body = lambda c, x: (c + jnp.tanh(c @ x[0]) * jnp.sum(x[1]), None)
    with pytest.warns(DeprecationWarning, match="no leading axis in common") as told:
        found = call(body, X, one)
    assert told[0].filename == __file__
    stacked = jax.tree.map(lambda a: jnp.asarray(a)[None], one)
    expected = call(body, X, stacked)
    as_list = lambda plans: [p.portable for p in (plans if isinstance(plans, list) else [plans])]
    assert as_list(found) == as_list(expected)


def test_a_portable_plan_is_a_value():
    plan = bwsk_jax.plan_scan(*SCANS["coupling"])
    assert isinstance(plan.portable, PortablePlan) and hash(plan.portable) == hash(plan.portable)


# --- policies ----------------------------------------------------------------------------------------------

POLICIES = {
    name: getattr(jax.checkpoint_policies, name)
    for name in ("nothing_saveable", "dots_saveable", "everything_saveable")
}
every_policy = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)


@every_policy
@every_scan
def test_a_scan_with_a_policy_is_the_scan_of_checkpoint(policy, name):
    body, init, xs = SCANS[name]

    def checkpointed(xs):
        body_ = jax.checkpoint(body, policy=policy, prevent_cse=False)
        return sum((a**2).sum() for a in jax.tree.leaves(jax.lax.scan(body_, init, xs)))

    text = lambda fun: re.sub("0x[0-9a-f]+", "", str(jax.make_jaxpr(fun)(xs)))
    assert text(gradient(name, plan=policy)) == text(lambda xs: jax.grad(checkpointed)(xs))


@every_policy
def test_a_call_with_a_policy_is_checkpoint(policy):
    run = lambda wrapped: jax.jit(jax.grad(lambda x: wrapped(x, WEIGHTS[0]).sum())).lower(X).as_text()
    assert run(bwsk_jax.reversible(block, plan=policy)) == run(jax.checkpoint(block, policy=policy))


def test_a_policy_goes_with_no_limit_and_keeps_each_carry():
    everything = jax.checkpoint_policies.everything_saveable
    with pytest.raises(ValueError, match="a plan or a limit, not both"):
        bwsk_jax.reversible_scan(*SCANS["coupling"], plan=everything, max_bytes=3)
    with pytest.raises(ValueError, match="save_every goes with a plan or a limit"):
        bwsk_jax.reversible_scan(*SCANS["coupling"], plan=everything, save_every=2)
