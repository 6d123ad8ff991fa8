"""Which sums could meet later, and is what they make then the same?"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

import bwsk_jax
from tests.support.sharded import array, bert_step

MESH = AbstractMesh((4,), ("data",))
X, W = array(64, 16), array(16, 32)


def deferrable(fun, *args, specs, out=None):
    report = bwsk_jax.calm(fun, *args, mesh=MESH, in_specs=specs, out_specs=out)
    return [
        (len(d.meetings), len(d.equations), d.times, d.times_deferred, d.wire, d.wire_deferred)
        for d in report.deferrable
    ]


def test_sums_that_feed_one_addition_could_meet_once():
    twice = lambda w, x: (jnp.tanh(x @ w) + jnp.sin(x @ (2 * w))).sum()
    size = 16 * 32 * 4 * 3 // 2
    assert deferrable(jax.grad(twice), W, X, specs=(P(), P("data"))) == [(2, 1, 2, 1, 2 * size, size)]


def test_a_sum_that_only_linear_maps_read_could_meet_when_it_is_small():
    small = lambda x, w: -(x.sum(0) @ w).reshape(8, 4).sum(0)
    assert deferrable(small, X, W, specs=(P("data"), P())) == [(1, 1, 1, 1, 16 * 4 * 3 // 2, 4 * 4 * 3 // 2)]


@pytest.mark.parametrize(
    "fun",
    [
        lambda x, w: jnp.tanh(x.sum(0)).sum(),  # not linear
        lambda x, w: (x.sum(0) * x.sum(0)).sum(),  # not linear in both
        lambda x, w: (w[:, 0] / x.sum(0)).sum(),  # nor in what it divides by
        lambda x, w: (x.sum(0) + w[:, 0]).sum(),  # what is whole would be added on each device
        lambda x, w: (x * x.sum(0)[None]).sum(1),  # another factor on each device
        lambda x, w: (x.max(0) + x.max(0)).sum(),  # no sums
    ],
)
def test_what_is_read_otherwise_meets_where_it_does(fun):
    assert deferrable(fun, X, W, specs=(P("data"), P())) == []


def test_a_loop_that_only_adds_up_could_meet_after_it():
    accumulate = lambda w, xs: jax.lax.scan(
        lambda total, x: (total + jax.grad(lambda w: jnp.tanh(x @ w).sum())(w), None), jnp.zeros_like(w), xs
    )[0]
    args = W, array(5, 64, 16)
    ((_, _, times, later, _, _),) = deferrable(accumulate, *args, specs=(P(), P(None, "data")), out=P())
    assert (times, later) == (5, 1)
    watched = lambda w, xs: jax.lax.scan(
        lambda total, x: ((new := total + (x.T @ x) @ w), jnp.sin(new)), jnp.zeros_like(w), xs
    )
    assert deferrable(watched, *args, specs=(P(), P(None, "data")), out=P()) == []


def test_deferred_sums_are_the_same_sums():
    """By hand: each part of a sum goes through the linear maps, and then they are added."""
    x, w = np.random.default_rng(0).normal(size=(64, 16)), np.random.default_rng(1).normal(size=(16, 32))
    small = lambda x: -(x.sum(0) @ w).reshape(8, 4).sum(0)
    np.testing.assert_allclose(sum(map(small, np.split(x, 4))), small(x), rtol=1e-9)


def test_bert_sums_the_gradient_of_its_word_embedding_twice():
    report = bert_step("data").predict()
    words = 128 * 64 * 4
    (twice,) = [d for d in report.deferrable if report.meetings[d.meetings[0]].bytes == words]
    assert (twice.times, twice.times_deferred) == (2, 1)
    assert "could meet later: the sums at" in str(report)
    assert report.to_dict()["deferrable"][0]["times_deferred"] == report.deferrable[0].times_deferred
