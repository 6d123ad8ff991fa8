"""What TPUs and GPUs take to save a value is part of what a plan takes; on a CPU recomputation is all."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import pytest
from jax.ad_checkpoint import checkpoint_name

import bwsk_jax
from bwsk_jax.engine.program.platform import traced_for
from bwsk_jax.engine.rules.devices import DEVICES

WIDTH = 64
LIMITS = (0.0, 0.03, 0.1, math.inf)


def layer(x, weights):
    for w in weights:
        x = jnp.tanh(jnp.sin(x) @ w)
    return x, None


@functools.cache
def plans(platform, width=WIDTH, kind=""):
    """Plans of a layer for inputs of some width, by their limits."""
    x = jax.ShapeDtypeStruct((512, width), jnp.float32)
    weights = [jax.ShapeDtypeStruct((2, width, width), jnp.float32)] * 3
    with traced_for(platform, kind):
        return [bwsk_jax.plan_scan(layer, x, weights, max_overhead=limit) for limit in LIMITS]


def test_on_a_cpu_the_fastest_plan_saves_what_takes_work_and_overhead_is_recomputation():
    for plan in plans("cpu"):
        work = sum(step.cost for step in plan.steps) / (3 * plan.problem.forward_cost)
        assert plan.overhead == plan.time == work
    assert plans("cpu")[0].overhead == 0.0


@pytest.mark.parametrize("platform", ["tpu", "gpu"])
def test_elsewhere_the_fastest_plan_replays_what_takes_less_time_than_to_save_it(platform):
    fastest, *others = plans(platform)
    assert fastest.overhead == pytest.approx(0.0, abs=1e-9)
    assert fastest.time < fastest.problem.time((), plans("cpu")[0].saved)
    assert fastest.saved_bytes < plans("cpu")[0].saved_bytes
    for plan, limit in zip(others, LIMITS[1:], strict=True):
        moved = plan.problem.traffic * plan.saved_bytes
        work = sum(step.cost for step in plan.steps)
        assert plan.time == pytest.approx((work + moved) / (3 * plan.problem.forward_cost))
        assert -1e-9 <= plan.overhead <= limit + 1e-9


def normalised(x, w):
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    return jnp.sin(centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True))) @ w, None


@pytest.mark.parametrize(("platform", "saves"), [("cpu", False), ("tpu", True), ("gpu", True)])
def test_what_a_reduction_gives_is_saved_where_reading_its_operand_takes_time(platform, saves):
    """A mean is a number for each row. To compute it anew takes a pass over all of the activation."""
    x, w = jax.ShapeDtypeStruct((512, 256), jnp.float32), jax.ShapeDtypeStruct((2, 256, 256), jnp.float32)
    with traced_for(platform):
        plan = bwsk_jax.plan_scan(normalised, x, w)
    replayed = [plan.problem.program.equations[step.equation].primitive.name for step in plan.steps]
    assert ("reduce_sum" not in replayed) == saves
    assert "sin" in replayed  # what is computed element by element is not saved


def test_a_device_that_computes_more_for_each_byte_gives_more_time_to_a_byte():
    """On a v6e it is 560 FLOPs in place of 241."""
    v5e, v6e = (plans("tpu", kind=DEVICES[name].kind)[0] for name in ("v5e", "v6e"))
    assert v6e.problem.traffic > 2 * v5e.problem.traffic


def test_a_plan_that_is_stored_has_its_overhead_where_it_was_made():
    there = plans("tpu")[1]
    here = dataclasses.replace(there.problem, traffic=0.0)
    stored = bwsk_jax.Plan.from_json(there.to_json())
    assert stored.on(there.problem).overhead == there.overhead
    moved = stored.on(here)
    assert moved.overhead == moved.time > 0


def named(x, w):
    x = checkpoint_name(x, "h")
    return jnp.tanh(x @ w), None


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_names_of_what_has_to_be_saved_are_refused_everywhere(platform):
    x, w = jax.ShapeDtypeStruct((8, 8), jnp.float32), jax.ShapeDtypeStruct((2, 8, 8), jnp.float32)
    with traced_for(platform), pytest.raises(bwsk_jax.PlanError, match="cannot do without h saved"):
        bwsk_jax.plan_scan(named, x, w, replay_names=("h",))


def test_no_plan_is_faster_than_the_fastest():
    """Here an exact inverse gives what would have to be saved."""

    def negated(x, w):
        return -x, jnp.sum(jnp.tanh(x) @ w)

    x, w = (jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in ((64, 64), (2, 64, 64)))
    with traced_for("tpu"):
        found = [bwsk_jax.plan_scan(negated, x, w, max_overhead=limit).overhead for limit in LIMITS]
    assert all(overhead >= 0 for overhead in found)
