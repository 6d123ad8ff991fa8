"""`reversible_scan` against `lax.scan`: the same values and gradients, however often the carry is kept."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import bwsk_jax
from bwsk_jax.engine.program.platform import traced_for
from tests.support.parity import INF, LEAST, B, H, L, W, X, assert_same, gradients, loss_of, random, warned
from tests.support.scan_bodies import (
    CASES,
    coupling,
    dense,
    half_precision,
    mixed_types,
    momentum,
    nested,
    nested_plain,
    with_outputs,
)

OPTIONS = {
    "default": {},
    "least memory": {"max_overhead": INF},
    "no recomputation": {"max_overhead": 0.0},
    "every": {"max_overhead": INF, "save_every": 1},
    "every other": {"max_overhead": INF, "save_every": 2},
    "without inverses": {"max_overhead": INF, "invert": False},
}


@functools.cache
def plain_gradients(name):
    body, init, xs, length = CASES[name]
    return gradients(lambda i, x: lax.scan(body, i, x, length), init, xs)


@pytest.mark.parametrize(
    "options",
    ["least memory", *(pytest.param(o, marks=pytest.mark.slow) for o in ("default", "every other"))],
)
@pytest.mark.parametrize("name", CASES)
def test_a_scan_has_the_values_and_gradients_of_lax_scan(name, options):
    body, init, xs, length = CASES[name]
    scan = functools.partial(bwsk_jax.reversible_scan, **OPTIONS[options])
    assert_same(gradients(lambda i, x: scan(body, i, x, length), init, xs), plain_gradients(name))
    jax.effects_barrier()


ORDERS = {
    "reverse": {"reverse": True},
    "unrolled": {"unroll": True},
    "two at a time, reverse": {"unroll": 2, "reverse": True},
}


@pytest.mark.parametrize(
    "options",
    ["every other", *(pytest.param(o, marks=pytest.mark.slow) for o in ("least memory", "without inverses"))],
)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", ["coupling", "outputs", "integers, bools and keys"])
def test_the_order_is_that_of_lax_scan(name, order, options):
    body, init, xs, length = CASES[name]
    ours = functools.partial(bwsk_jax.reversible_scan, **OPTIONS[options])
    run = lambda scan: gradients(lambda i, x: scan(body, i, x, length, **ORDERS[order]), init, xs)
    assert_same(run(ours), run(lax.scan))


def test_the_arguments_of_lax_scan_have_its_names_and_its_places():
    ours, theirs = (inspect.signature(scan).parameters for scan in (bwsk_jax.reversible_scan, lax.scan))
    places = [(p.name, p.default) for p in ours.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert places == [(p.name, p.default) for p in theirs.values() if not p.name.startswith("_")]
    for planned in (bwsk_jax.plan_scan, bwsk_jax.frontier):
        assert list(inspect.signature(planned).parameters)[: len(places)] == [name for name, _ in places]


def test_the_order_changes_no_plan():
    plans = [bwsk_jax.plan_scan(*CASES["coupling"][:3], **order) for order in ({}, *ORDERS.values())]
    assert len({plan.to_json() for plan in plans}) == 1


@pytest.mark.parametrize("mistake", [{"unroll": -1}, {"unroll": "all"}, {"length": 99}])
def test_mistakes_in_the_order_get_the_message_of_lax_scan(mistake):
    def message(scan):
        with pytest.raises((TypeError, ValueError)) as raised:
            scan(*CASES["coupling"][:3], **mistake)
        return str(raised.value)

    assert message(bwsk_jax.reversible_scan) == message(lax.scan)


@pytest.mark.parametrize("kind", [int, np.int64, jnp.int32])
def test_a_scan_over_nothing_takes_a_length(kind):
    body = lambda c, _: (jnp.sin(c), c)
    run = lambda scan: gradients(lambda c: scan(body, c, length=kind(5)), X)
    assert_same(run(LEAST), run(lax.scan))


@pytest.mark.parametrize(("unroll", "loops"), [(1, 2), (True, 0), (2, 2), (L, 0), (False, 2)])
def test_iterations_are_unrolled_both_ways_and_then_kept_apart(unroll, loops):
    """XLA would merge what is replayed with the forward pass; not every backend heeds the barrier.

    Inverses stay out, for what spoils a drifted gradient is a loop of its own.
    """
    body, init, xs, _ = CASES["coupling"]
    run = lambda w: loss_of(LEAST(body, init, w, unroll=unroll, invert=False))
    with traced_for("tpu"):
        text = jax.jit(jax.grad(run)).lower(xs).as_text()
    assert text.count("stablehlo.while") == loops
    assert (text.count("optimization_barrier") > 0) == (loops == 0)


@pytest.mark.parametrize("invert", [True, False])
def test_there_is_a_barrier_where_it_helps(invert):
    """Around a plan and around what `jax.checkpoint` does. The same function is traced for each platform."""
    scan = functools.partial(LEAST, invert=invert)
    gradient = jax.jit(jax.grad(lambda w: sum(a.sum() for a in scan(coupling, (X, X), w)[0])))

    def barriers(target):
        with traced_for(target):
            return gradient.lower(W).as_text().count("optimization_barrier")

    assert [barriers(target) for target in ("cpu", "tpu", "cpu", "gpu", None)] == [1, 0, 1, 0, 1]


def test_a_weak_carry_stays_weak():
    weak = lambda c, x: ((c[0] * 0.5, c[1] + 1), (c[0] * x, c[1] * x))
    xs = jnp.ones(3, jnp.bfloat16)
    types = [list(map(jax.typeof, jax.tree.leaves(scan(weak, (1.0, 0), xs)))) for scan in (LEAST, lax.scan)]
    assert types[0] == types[1]


@pytest.mark.parametrize(
    ("every", "length"),
    [
        (3, 7),
        *(
            pytest.param(*kept, marks=pytest.mark.slow)
            for kept in [(1, 1), (1, 6), (2, 1), (3, 6), (6, 6), (7, 8), (100, 3)]
        ),
    ],
)
def test_carries_may_be_kept_however_often(every, length):
    w, scan = random(0, length, H, H), functools.partial(LEAST, save_every=every)
    run = lambda scan: gradients(lambda i, x: scan(with_outputs, i, x), X, w)
    assert_same(run(scan), run(lax.scan))


@pytest.mark.parametrize("every", [None, 2])
def test_a_sum_that_is_carried_along_is_not_handed_back(every):
    def body(carry, w):
        total, (a, b) = carry
        (a, b), _ = coupling((a, b), w)
        return (total + a * b, (a, b)), total.sum()

    scan = functools.partial(bwsk_jax.reversible_scan, max_overhead=0.0, save_every=every)
    run = lambda scan: gradients(lambda i, x: scan(body, i, x), (X, (X, 2 * X)), W)
    assert 0 not in bwsk_jax.plan_scan(body, (X, (X, X)), W, max_overhead=0.0).problem.handed
    assert_same(run(scan), run(lax.scan))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("coupling", "no recomputation"),
        ("integers, bools and keys", "every"),
        ("masks and exact zeros", "without inverses"),
        *(
            pytest.param(name, options, marks=pytest.mark.slow)
            for name, options in [
                *(("coupling", "every"), ("coupling", "without inverses")),
                *(
                    ("integers, bools and keys", "no recomputation"),
                    ("integers, bools and keys", "without inverses"),
                ),
                *(("masks and exact zeros", "no recomputation"), ("masks and exact zeros", "every")),
            ]
        ),
    ],
)
def test_every_option_keeps_the_gradient(name, options):
    test_a_scan_has_the_values_and_gradients_of_lax_scan(name, options)


def test_a_scan_inside_a_scan():
    run = lambda scan, body: gradients(lambda i, x: scan(body, i, x), (X, X), W)
    assert_same(run(LEAST, nested), run(lax.scan, nested_plain))


@pytest.mark.parametrize(
    ("dtype", "rtol"), [(jnp.bfloat16, 6e-2), pytest.param(jnp.float16, 1e-2, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("body", [half_precision, dense], ids=["computed wide", "computed narrow"])
def test_narrow_carries(dtype, rtol, body):
    w = W.astype(dtype) if body is dense else W
    run = lambda scan: gradients(lambda i, x: scan(body, i, x), X.astype(dtype), w)
    assert_same(run(functools.partial(LEAST, save_every=3)), run(lax.scan), rtol)


def test_carries_of_different_types():
    run = lambda scan: gradients(lambda i, x: scan(mixed_types, i, x), (X, X.astype(jnp.bfloat16)), W)
    ours = []
    warned(lambda: ours.append(run(LEAST)))  # the wide carry follows the narrow one's rounding, and says so
    assert_same(ours[0], run(lax.scan), 6e-2)


@pytest.mark.parametrize(
    "body",
    [pytest.param(coupling, id="coupling", marks=pytest.mark.slow), pytest.param(momentum, id="momentum")],
)
def test_double_precision_is_recovered_to_double_precision(body):
    with jax.enable_x64(True):
        wide = lambda a: jnp.asarray(np.asarray(a, np.float64))
        init, xs = (wide(X), wide(X) + 1), wide(W if body is coupling else random(3, L, B, H))
        run = lambda scan: gradients(lambda i, x: scan(body, i, x), init, xs)
        assert_same(run(LEAST), run(lax.scan), 1e-12)
