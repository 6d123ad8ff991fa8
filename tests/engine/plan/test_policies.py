"""A plan as a policy of `jax.checkpoint`."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import bwsk_jax
from bwsk_jax import PlanError
from experiments.families import FAMILIES, Size
from experiments.families.measure import abstract, concrete, gradient, plan, temp_bytes
from tests.support.parity import INF, assert_same, random

SIZE = Size(batch=2, time=16, width=32, layers=3)
NAMES = ["GPT-2 (Linen)", "transformer (Equinox)", "ConvNeXt (Haiku)"]
LIMITS = [0.0, 0.03, 0.1, INF]


def checkpointed(policy, body, init, xs):
    return lax.scan(jax.checkpoint(body, policy=policy, prevent_cse=False), init, xs)


def residuals(f, *args):
    """What autodiff keeps beside the arguments."""
    _, pull = jax.vjp(f, *args)
    is_argument = lambda a: any(a.shape == b.shape and bool((a == b).all()) for b in args)
    return [a for a in jax.tree.leaves(pull) if not is_argument(a)]


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_is_that_of_the_plan(name):
    stack = concrete(FAMILIES[name], jnp.float32, SIZE)
    policy = plan(stack, invert=False).to_policy()
    varied = stack.shared, stack.carry, stack.xs
    ours, plain = (
        jax.jit(gradient(stack, scan))(varied, jax.tree.map(lambda _: None, varied))
        for scan in (functools.partial(checkpointed, policy), lax.scan)
    )
    assert_same(ours, plain)


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("name", NAMES)
def test_the_policy_takes_about_the_memory_of_the_plan(name, limit):
    stack = abstract(FAMILIES[name], jnp.float32, SIZE)
    found = plan(stack, max_overhead=limit, invert=False)
    by_plan = functools.partial(bwsk_jax.reversible_scan, max_overhead=limit, invert=False)
    by_policy = functools.partial(checkpointed, found.to_policy())
    assert temp_bytes(stack, by_policy) <= 1.2 * temp_bytes(stack, by_plan)  # some equations look alike


def test_what_the_policy_saves_is_what_the_plan_saves():
    x, w = random(0, 8, 16), random(1, 16, 16)

    def f(x, w):
        return jnp.tanh(jnp.sin(x @ w) @ w.T).sum()

    for limit in LIMITS:
        found = bwsk_jax.plan(f, x, w, max_overhead=limit, invert=False)
        kept = residuals(jax.checkpoint(f, policy=found.to_policy()), x, w)
        assert sum(a.nbytes for a in kept) == found.saved_bytes


def test_equations_that_look_alike_are_all_saved():
    f = lambda x: jnp.sin(jnp.sin(jnp.sin(x))).sum()
    found = bwsk_jax.plan(f, random(0, 4), max_bytes=16, invert=False)
    assert len(found.saved) == 1
    assert len(residuals(jax.checkpoint(f, policy=found.to_policy()), random(0, 4))) > 1


def test_an_inverse_is_no_policy():
    body = lambda c, w: (c + w, jnp.sin(c))
    found = bwsk_jax.plan_scan(body, random(0, 4), random(1, 3, 4), max_overhead=INF)
    with pytest.raises(PlanError, match=r"the plan has \d+ inverse steps: make it with invert=False"):
        found.to_policy()
