"""Layers as their own libraries and papers define them: right gradients, in no more memory than replaying."""

import functools
import math

import jax
import jax.numpy as jnp
import pytest

import bwsk_jax
from bwsk_jax.engine.execute import guard
from experiments.distance import distance
from experiments.families import FAMILIES, Size, measure
from tests.support.families import family_parameters

INF = math.inf
SMALL = Size(batch=2, time=16, width=32, layers=4)
IN_FLOAT16 = ("BERT, post-norm", "Mamba, scan", "ResNet (Linen)", "GRU (Linen)", "RevNet", "leapfrog")
every_family = pytest.mark.parametrize("name", family_parameters())


@pytest.fixture(autouse=True)
def promotion_as_the_libraries_have_it():
    with jax.numpy_rank_promotion("allow"):
        yield


def compiled(stack, scan):
    gradient = measure.gradient(stack, measure.SCANS[scan])
    return jax.jit(gradient, compiler_options=measure.FAST_COMPILATION)


@every_family
def test_the_gradient_is_that_of_plain_autodiff(name):
    """To rounding in float32, by either limit."""
    single = measure.concrete(FAMILIES[name], jnp.float32, SMALL)
    values = measure.arguments(single)
    plain = compiled(single, "plain")
    expected = plain(*values)
    for scan in ("default", "least"):
        assert distance(compiled(single, scan)(*values), expected) <= 1e-5
    jax.effects_barrier()


@pytest.mark.parametrize(
    ("name", "dtype"),
    [pytest.param(*family.values, jnp.bfloat16, marks=family.marks) for family in family_parameters()]
    + [pytest.param(name, jnp.float16, marks=pytest.mark.slow) for name in IN_FLOAT16],
)
def test_a_narrow_type_loses_no_more_than_in_plain_autodiff(name, dtype):
    """The gradient is at most 1.15 times as far from that of float32, by either limit."""
    stack = measure.concrete(FAMILIES[name], dtype, SMALL)
    single = measure.concrete(FAMILIES[name], jnp.float32, SMALL)
    floats, rest = measure.arguments(stack)
    exact = compiled(single, "plain")(jax.tree.map(lambda a: a.astype(jnp.float32), floats), rest)
    error = lambda scan: distance(compiled(stack, scan)(floats, rest), exact)
    try:
        allowed = 1.15 * error("plain")
    except ValueError as refused:
        if "is not supported by dot_general on CPU" not in str(refused):
            raise
        pytest.skip(f"plain autodiff cannot do it either: {str(refused).splitlines()[0]}")
    assert max(error("default"), error("least")) <= allowed
    jax.effects_barrier()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", FAMILIES)
def test_what_runs_on_random_data_keeps_to_the_limit(name, dtype, monkeypatch):
    """Every guard of a plan whose second schedule recomputes more than the limit allows the first one."""
    verdicts = []

    def seen(*args):
        verdict = guard.trusted(*args)
        if verdict is not None:
            jax.debug.callback(lambda v: verdicts.append(bool(v.all())), verdict)
        return verdict

    monkeypatch.setattr("bwsk_jax.engine.execute.reversible_scan.trusted", seen)
    for limit in (0.03, 0.08, 0.15):
        plan = measure.plan(measure.abstract(FAMILIES[name], dtype, SMALL), max_overhead=limit)
        assert plan.overhead <= limit + 1e-9
        if plan.fallback_overhead > limit:
            stack = measure.concrete(FAMILIES[name], dtype, SMALL)
            scan = functools.partial(bwsk_jax.reversible_scan, max_overhead=limit)
            gradient = jax.jit(measure.gradient(stack, scan), compiler_options=measure.FAST_COMPILATION)
            jax.block_until_ready(gradient(*measure.arguments(stack)))
            jax.effects_barrier()
            assert verdicts and all(verdicts)
