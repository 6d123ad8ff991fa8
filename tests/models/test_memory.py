"""What plans of families save, and that the compiled gradient needs memory in the order they promise."""

import functools
import math

import jax
import jax.numpy as jnp
import pytest

import bwsk_jax
from bwsk_jax import bert
from bwsk_jax.engine.plan.plan import Limit
from bwsk_jax.engine.plan.solver import MARGIN
from experiments.families import FAMILIES, Size, Stack, measure
from tests.support.families import family_parameters

MEDIUM = Size(batch=4, time=64, width=64, layers=8)
LARGE = Size(batch=8, time=256, width=256, layers=12)
NOTHING_SAVED = ["leapfrog", "momentum"]
ONLY_MASKS_SAVED = ["RevNet", "RevNet, pre-activation", "Reformer", "RealNVP"]


@pytest.fixture(autouse=True)
def promotion_as_the_libraries_have_it():
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize("name", family_parameters())
def test_no_more_memory_than_replaying_layer_by_layer(name):
    stack = measure.abstract(FAMILIES[name], jnp.float32, MEDIUM)
    plan = measure.plan(stack, max_overhead=math.inf)
    assert plan.saved_bytes <= 1.02 * measure.carry_bytes(stack)
    plain, default, least = (
        measure.temp_bytes(stack, measure.SCANS[scan]) for scan in ("plain", "default", "least")
    )
    assert least <= 1.02 * default and default <= 1.02 * plain
    if plan.is_checkpoint:
        assert least <= 1.01 * measure.temp_bytes(stack, measure.SCANS["checkpoint"])


@pytest.mark.parametrize("name", family_parameters())
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_inverses_win(name, dtype):
    stack = measure.abstract(FAMILIES[name], dtype, MEDIUM)
    for limit in (0.03, 0.08, 0.15, math.inf):
        plan, replaying = (measure.plan(stack, max_overhead=limit, invert=invert) for invert in (True, False))
        weight = Limit(limit).weights[1]
        worth = [p.saved_bytes / p.residual_bytes + weight * p.overhead for p in (plan, replaying)]
        rounds = not all(step.exact for step in plan.steps)
        margin = weight * MARGIN if rounds else 0.0
        assert worth[0] <= worth[1] - margin * (1 - 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["BERT, post-norm", "RealNVP"])
def test_what_inverses_save_of_bfloat16_is_saved_in_a_compiled_program(name):
    """A guard takes something once, and a CPU would hold what is saved narrow in a wider type."""
    stack = measure.abstract(FAMILIES[name], jnp.bfloat16, LARGE)
    plan, replaying = (measure.plan(stack, invert=invert) for invert in (True, False))
    assert plan.saved_bytes <= replaying.saved_bytes
    inverting, without = (
        measure.temp_bytes(stack, functools.partial(bwsk_jax.reversible_scan, invert=invert))
        for invert in (True, False)
    )
    assert inverting <= 1.01 * without


@pytest.mark.parametrize("name", NOTHING_SAVED)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_what_is_invertible_by_construction_saves_nothing(name, dtype):
    plan = measure.plan(measure.abstract(FAMILIES[name], dtype, MEDIUM), max_overhead=math.inf)
    assert plan.saved_bytes == 0


@pytest.mark.parametrize("name", ONLY_MASKS_SAVED)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_where_a_relu_or_a_clipped_variance_compares_its_mask_is_saved(name, dtype):
    """A bit for each element of what is compared, of two relus in each branch or the variance of each row."""
    stack = measure.abstract(FAMILIES[name], dtype, MEDIUM)
    plan = measure.plan(stack, max_overhead=math.inf)
    assert {plan.problem.program.avals[v].dtype for v in plan.saved if plan.problem.bytes[v] > 64} <= {
        jnp.dtype(bool)
    }
    assert 0 < plan.saved_bytes <= 0.07 * measure.carry_bytes(stack)


@pytest.mark.slow
def test_a_bert_layer_needs_half_the_bytes_at_equal_recomputation():
    config, hidden = bert.PRESETS["base"], jax.ShapeDtypeStruct((4, 512, 768), jnp.bfloat16)
    layers = jax.eval_shape(lambda: bert.init_params(config, jax.random.key(0)))["layers"]
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0, impl="rbg"), 12))
    body = bert.layer_body(config, dtype=jnp.bfloat16, train=True)
    stack = Stack(lambda _, hidden, x: body(hidden, x), (), hidden, (layers, keys))
    inverting = measure.plan(stack, max_bytes=int(1.01 * measure.carry_bytes(stack)))
    replaying = measure.plan(stack, max_overhead=inverting.overhead, invert=False)
    assert replaying.saved_bytes >= 1.9 * inverting.saved_bytes
