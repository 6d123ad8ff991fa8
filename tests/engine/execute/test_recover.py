"""Guards: an inverse that the data do not allow is not used, whatever else runs beside it."""

import functools
import warnings

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import bwsk_jax
from bwsk_jax.engine.execute import guard

L, B, H = 3, 4, 8
BYTES = 4 * B * H
"""What the product of one layer takes. Within that the plan of least time needs a guard."""
GUARDED = functools.partial(bwsk_jax.reversible_scan, max_bytes=BYTES)


def layer(carry, inputs):
    """The layer below is recovered by dividing by `scale`, or replayed where that is hopeless."""
    w, scale, shift = inputs
    h = jnp.tanh(carry @ w)
    return h * scale + shift, None


def inputs(scale=1.0, shift=0.1):
    w = 0.3 * jax.random.normal(jax.random.key(0), (L, H, H))
    scales = 1 + 0.1 * jax.random.normal(jax.random.key(1), (L, B, H))
    shifts = shift * jax.random.normal(jax.random.key(2), (L, B, H))
    return w, scales.at[1, :, 2:4].set(scale), shifts


INIT = jax.random.normal(jax.random.key(3), (B, H))


def gradients(scan, init, xs):
    loss = lambda init, xs: jnp.sum(jnp.sin(scan(layer, init, xs)[0]))
    return jax.grad(loss, (0, 1))(init, xs)


def assert_same(ours, plain, rtol=1e-4):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * float(jnp.max(jnp.abs(b))))


def test_the_layer_is_planned_with_a_guard():
    plan = bwsk_jax.plan_scan(layer, INIT, inputs(), max_bytes=BYTES)
    assert plan.guarded_steps and plan.fallback is not None
    assert plan.overhead < plan.fallback_overhead


@pytest.mark.parametrize(
    "scale",
    [1.0, 0.0, 1e-7, 1e-40, *(pytest.param(scale, marks=pytest.mark.slow) for scale in (-0.0, 1e-3, 1e-20))],
)
@pytest.mark.parametrize("shift", [0.1, pytest.param(1e4, marks=pytest.mark.slow)])
def test_gradients_are_right_whatever_the_scale(scale, shift):
    xs = inputs(scale, shift)
    assert_same(gradients(GUARDED, INIT, xs), gradients(lax.scan, INIT, xs))


@pytest.mark.parametrize("size", [1.0, 1e5, 1e8])
def test_a_large_unit_excuses_no_error_of_its_neighbours(size):
    """One that nobody reads, so that the gradients of all others are as large as ever."""
    width = 32
    body = lambda carry, inputs: ((carry @ inputs[0]) * inputs[1] + inputs[2], None)
    keys = jax.random.split(jax.random.key(4), 3)
    w = 0.2 * jax.random.normal(keys[0], (L, width, width))
    w = w.at[:, :, 0].multiply(size).at[1:, 0, :].set(0)
    scale = (1 + 0.1 * jax.random.normal(keys[1], (L, B, width))).at[:, :, 2:4].set(1e-7)
    init, shift = jax.random.normal(keys[2], (B, width)), jnp.ones((L, B, width))

    def gradient(scan):
        loss = lambda scale: jnp.sum(jnp.sin(scan(body, init, (w, scale, shift))[0][:, 1:]))
        return jax.grad(loss)(scale)[:, :, 1:]

    plan = bwsk_jax.plan_scan(body, init, (w, scale, shift), max_bytes=4 * B * width)
    assert plan.guarded_steps
    ours = functools.partial(bwsk_jax.reversible_scan, max_bytes=4 * B * width)
    assert_same(gradient(ours), gradient(lax.scan))


def conditionals(jaxpr):
    for equation in jaxpr.eqns:
        if equation.primitive.name == "cond":
            yield equation
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from conditionals(inner)


def test_the_conditional_holds_only_what_the_two_schedules_do_differently():
    """One branch solves for `h`, the other replays it; `1 - h**2`, which both schedules give, is outside."""
    traced = jax.make_jaxpr(functools.partial(gradients, GUARDED))(INIT, inputs())
    (chosen,) = conditionals(traced.jaxpr)
    assert [v.aval.shape for v in chosen.outvars] == [(B, H)]
    primitives = [{e.primitive.name for e in branch.eqns} for branch in chosen.params["branches"]]
    assert primitives == [{"dot_general", "tanh"}, {"sub", "div"}]


def test_a_dead_scale_recovers_exactly_what_the_fallback_gives():
    xs = inputs(0.0)
    with_guard, without = (gradients(functools.partial(GUARDED, invert=i), INIT, xs) for i in (True, False))
    assert_same(with_guard, without, rtol=1e-6)


def test_what_the_guard_looks_for_is_no_error():
    xs = inputs(0.0)
    with jax.debug_nans(True), jax.disable_jit():
        ours = gradients(GUARDED, INIT, xs)
    assert_same(ours, gradients(lax.scan, INIT, xs))


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, -jnp.inf])
@pytest.mark.parametrize("where", ["init", "weights"])
def test_what_is_not_finite_stays_where_plain_autodiff_has_it(value, where):
    init, (w, scale, shift) = INIT, inputs()
    if where == "init":
        init = init.at[0, 0].set(value)
    else:
        w = w.at[1, 0, 0].set(value)
    ours, plain = (gradients(scan, init, (w, scale, shift)) for scan in (GUARDED, lax.scan))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_a_mapped_axis_may_hold_the_healthy_and_the_dead():
    several = jax.tree.map(lambda *a: jnp.stack(a), inputs(), inputs(0.0), inputs(1e-9, 1e3))
    ours, plain = (jax.vmap(functools.partial(gradients, s, INIT))(several) for s in (GUARDED, lax.scan))
    assert_same(ours, plain)


def test_a_mapped_guard_stays_a_conditional():
    several = jax.tree.map(lambda *a: jnp.stack(a), inputs(), inputs(0.0))
    text = str(jax.make_jaxpr(jax.vmap(functools.partial(gradients, GUARDED, INIT)))(several))
    plain = str(jax.make_jaxpr(functools.partial(gradients, GUARDED, INIT))(inputs()))
    assert text.count("cond[") == plain.count("cond[") > 0


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
@pytest.mark.parametrize("scale", [pytest.param(1.0, marks=pytest.mark.slow), 0.0])
def test_dropout_draws_the_same_bits_inside_a_mapped_guard(impl, scale):
    def body(carry, xs):
        *rest, data = xs
        key = jax.random.wrap_key_data(data, impl=impl)
        carry, _ = layer(carry, rest)
        return jnp.where(jax.random.bernoulli(key, 0.7, carry.shape), carry / 0.7, 0.0) + jnp.tanh(
            carry
        ), None

    data = jax.random.key_data(jax.random.split(jax.random.key(4, impl=impl), L))
    several = jax.tree.map(lambda *a: jnp.stack(a), inputs(), inputs(scale))

    def run(scan):
        loss = lambda xs: jnp.sum(jnp.sin(scan(body, INIT, (*xs, data))[0]))
        return jax.vmap(jax.grad(loss))(several)

    assert_same(run(GUARDED), run(lax.scan))


def test_the_largest_of_a_mapped_axis_is_shared():
    x = jnp.asarray([[1.0, 5.0], [3.0, 2.0]])
    np.testing.assert_array_equal(jax.vmap(guard.largest)(x[:, 0]), [3.0, 3.0])
    np.testing.assert_array_equal(jax.vmap(jax.vmap(guard.largest))(x), np.full((2, 2), 5.0))
    assert guard.largest(jnp.float32(2.0)) == 2.0


# --- layer norm ----------------------------------------------------------------------------------------


def layer_norm(x, scale, shift):
    mean = x.mean(-1, keepdims=True)
    var = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) * lax.rsqrt(var + 1e-12) * scale[None] + shift[None]


def block(carry, p):
    h = layer_norm(carry + jnp.tanh(carry @ p["w"]), p["scale"], p["shift"])
    return layer_norm(h + jax.nn.gelu(h @ p["w"].T, approximate=False), p["scale"], p["shift"]), None


WITHIN = [
    {"max_overhead": 0.03},
    pytest.param({"max_overhead": 0.2}, marks=pytest.mark.slow),
    {"max_bytes": 3 * BYTES},  # for which there are guards
]


@pytest.mark.parametrize("limit", WITHIN, ids=str)
@pytest.mark.parametrize(
    ("scale", "shift"),
    [
        *((1.0, 0.0), (0.0, 1.0), (1e-3, 1e3)),
        *(pytest.param(*both, marks=pytest.mark.slow) for both in ((0.0, 0.0), (1e-8, 1.0))),
    ],
    ids=lambda v: f"{v:g}",
)
def test_layer_norm_of_any_scale(scale, shift, limit):
    scales = jnp.ones((L, H)).at[1].set(scale).at[2, 0].set(scale)
    params = {"w": 0.3 * jax.random.normal(jax.random.key(5), (L, H, H)), "scale": scales}
    params["shift"] = jnp.full((L, H), 0.1) + shift

    def run(scan):
        loss = lambda init, params: jnp.sum(jnp.sin(scan(block, init, params)[0]))
        return jax.grad(loss, (0, 1))(INIT, params)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", bwsk_jax.ReconstructionWarning)
        ours = run(functools.partial(bwsk_jax.reversible_scan, **limit))
        jax.effects_barrier()
    plain = run(lax.scan)
    assert all(jnp.isfinite(a).all() for a in jax.tree.leaves(ours))
    # A scale of 0 makes the next layer norm divide by sqrt(1e-12), in plain autodiff too.
    assert_same(ours, plain, rtol=1e-3 if scale == 1.0 else 2e-2)
