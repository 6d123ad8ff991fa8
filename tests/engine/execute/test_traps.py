"""Traps: functions for which an engine that inverts is easily, and silently, wrong."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import bwsk_jax
from bwsk_jax.engine.plan.problem import scan_problem
from bwsk_jax.engine.program.scan_body import trace_iteration
from tests.support.parity import warned

LEAST = functools.partial(bwsk_jax.reversible_scan, max_overhead=float("inf"))
B, H, L = 4, 8, 3
random = lambda seed, *shape: jax.random.normal(jax.random.key(seed), shape)
W, X = random(1, H, H), random(2, B, H)


def finite_loss(tree):
    return sum(jnp.sum(jnp.where(jnp.isfinite(a), a, 0.0) ** 2) for a in jax.tree.leaves(tree))


def assert_same_gradient(body, init, xs, scan=LEAST, rtol=1e-3):
    """The gradient is right, or at least a warning says that it may not be."""
    run = lambda scan: jax.grad(lambda i, x: finite_loss(scan(body, i, x)), (0, 1))(init, xs)
    ours = []
    if warned(lambda: ours.append(run(scan))):
        print("with a warning")
    (ours,) = ours
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(run(lax.scan)), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * float(jnp.abs(b).max()))


# --- a value inside the body is buried, the carry is not: nobody notices ---


def test_a_branch_buried_under_another_is_not_recovered_from_their_sum():
    body = lambda c, x: (jnp.tanh(c * 1e-6 @ W) + x, None)
    assert_same_gradient(body, random(3, B, H), random(4, L, B, H) * 1e6)


def test_an_infinite_mask_does_not_make_the_gradient_nan():
    mask = jnp.where(random(4, L, B, H) > 0, 0.0, -jnp.inf)
    body = lambda c, x: (jnp.tanh(jnp.where(c > -1e30, c, 0.0) @ W) + x, None)
    assert_same_gradient(body, X, mask)


# --- rounding of an exact 0 flips a comparison that the engine does not see ---


@jax.custom_vjp
def relu(x):
    return jnp.maximum(x, 0)


relu.defvjp(lambda x: (relu(x), x), lambda x, ct: (jnp.where(x > 0, ct, 0),))

COMPARES = {
    "in a custom backward pass": lambda a, w: relu(a) @ w,
    "in a loop": lambda a, w: lax.map(jax.nn.relu, a) @ w,
    "in a conditional": lambda a, w: lax.cond(w[0, 0] > -9, jax.nn.relu, lambda x: x, a) @ w,
    "in the transpose of a max-pool": lambda a, w: (
        lax.reduce_window(a, -jnp.inf, lax.max, (1, 4), (1, 1), "SAME") @ w
    ),
    "by its sign bit": lambda a, w: jnp.where(jnp.signbit(a), 0, a) @ w,
}


@pytest.mark.parametrize("how", COMPARES)
def test_an_exact_zero_stays_zero_where_it_is_compared(how):
    def body(c, w):
        a, d = c
        d = d + COMPARES[how](a, w[0])
        return (a + jnp.tanh(d @ w[1]) + jnp.sin(d @ w[2]), d), None

    assert_same_gradient(body, (X.at[0].set(0.0), X), 0.5 * random(5, L, 3, H, H))


def test_a_singularity_is_not_replayed_from_a_rounded_value():
    def body(c, w):
        a, d = c
        d = d + jnp.arctanh(a) @ w[0] * 1e-9
        return (a + 1e-3 * (jnp.tanh(d @ w[1]) + 2), d), None

    assert_same_gradient(body, (jnp.full((B, H), np.float32(1 - 6e-8)), X), random(5, 1, 2, H, H))


# --- intervals that do not hold ---


def test_what_underflows_in_half_precision_is_not_divided_by():
    s = jnp.full((L, B), -18.0)
    body = lambda c, s: (c * jnp.exp(jnp.clip(s, -19, 2)).astype(jnp.float16) + jnp.float16(1), None)
    assert_same_gradient(body, random(3, B).astype(jnp.float16), s)


# --- second derivatives through a guard that refuses ---


def test_second_derivatives_are_finite_where_a_scale_is_dead():
    def layer(c, p):
        return jnp.tanh(c @ p[0]) * p[1] + p[2], None

    scale = (1 + 0.1 * random(6, L, B, H)).at[:, :, 3].set(0)
    params = random(7, L, H, H) * 0.3, scale, 0.1 * random(8, L, B, H)

    def second(scan):
        first = jax.grad(lambda p: jnp.sum(jnp.sin(scan(layer, X, p)[0])))
        return jax.grad(lambda p: sum(jnp.sum(jnp.sin(g)) for g in jax.tree.leaves(first(p))))(params)

    for a, b in zip(jax.tree.leaves(second(LEAST)), jax.tree.leaves(second(lax.scan)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


# --- not the best plan ---


def test_all_operands_of_a_concatenation_are_recovered_from_it():
    def body(c, w):
        a, b = jnp.tanh(c[:, :4] @ w[:4, :4]), jnp.tanh(c[:, 4:] @ w[4:, 4:])
        return jnp.concatenate([a, b], 1), None

    plan = bwsk_jax.plan_scan(body, X, random(9, L, H, H), max_overhead=float("inf"))
    assert plan.inverted == 2
    assert_same_gradient(body, X, random(9, L, H, H))


# --- a false alarm, and an alarm that is always wired ---


def test_a_carry_that_starts_at_zero_is_no_drift():
    def momentum(c, w):
        x, v = c
        v = 0.9 * v + jnp.tanh(x @ w)
        return (x + v, v), None

    assert not warned(
        lambda: jax.grad(lambda w: finite_loss(LEAST(momentum, (X, jnp.zeros((B, H))), w)))(
            random(9, L, H, H)
        )
    )


def test_a_scan_that_cannot_drift_calls_nothing_back():
    grad = jax.grad(lambda w: finite_loss(LEAST(lambda c, w: (jnp.tanh(c @ w), None), X, w)[0]))
    assert "callback" not in jax.jit(grad).lower(random(9, L, H, H)).as_text()


# --- the same forward pass, another backward pass --------------------------------------------------------


def test_functions_that_differ_only_in_their_backward_pass_are_planned_apart():
    def made(backward):
        fun = jax.custom_vjp(lambda x: x * x)
        fun.defvjp(lambda x: (x * x, x), backward)
        return lambda c, w: ((c[1], c[0] + fun(c[1]) @ w), None)

    smooth = made(lambda x, ct: (2 * x * ct,))
    compares = made(lambda x, ct: (jnp.where(x > 0.5, 2 * x * ct, 0),))
    half, square = jax.ShapeDtypeStruct((B, H), jnp.float32), jax.ShapeDtypeStruct((H, H), jnp.float32)
    problems = [scan_problem(trace_iteration(body, (half, half), square)) for body in (smooth, compares)]
    assert problems[0].program.fingerprint() == problems[1].program.fingerprint()
    assert problems[0].fingerprint() != problems[1].fingerprint()
