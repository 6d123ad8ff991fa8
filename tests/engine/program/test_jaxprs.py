"""Tracing: what a function closes over becomes an input, calls are inlined, equal equations are one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import primitives as p

from bwsk_jax.engine.program import jaxprs
from bwsk_jax.engine.program.vjp import trace_vjp

X = jax.ShapeDtypeStruct((3, 4), jnp.float32)


def primitives(program):
    return [e.primitive for e in program.equations]


# --- closures ------------------------------------------------------------------------------------------


CLOSED_OVER = {
    "float": lambda: jnp.full((3, 4), 0.5),
    "int": lambda: jnp.arange(4),
    "bool": lambda: jnp.ones((3, 4), bool),
    "key": lambda: jax.random.key(0),
    "numpy": lambda: np.ones((3, 4), np.float32),
}


def use(x, value):
    value = jnp.asarray(value)
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return x + jax.random.normal(value, x.shape)
    return jnp.where(value, x, 0) if value.dtype == bool else x * (value if value.ndim == 2 else value[None])


@pytest.mark.parametrize("kind", [k for k in CLOSED_OVER if k != "numpy"])
def test_a_closed_over_array_becomes_a_leading_input(kind):
    value = CLOSED_OVER[kind]()
    program, consts, _ = jaxprs.trace(lambda x: use(x, value), X)
    assert len(consts) == 1 and len(program.inputs) == 2 and not program.constants
    assert program.avals[program.inputs[0]].dtype == value.dtype


@pytest.mark.parametrize("kind", CLOSED_OVER)
def test_a_closed_over_tracer_becomes_an_input_and_does_not_leak(kind):
    x = jnp.ones((3, 4))

    @jax.jit
    def outer(value):
        program, consts, _ = jaxprs.trace(lambda x: use(x, value), X)
        assert len(consts) == 1
        return program.evaluate([*consts, x], program.outputs)[0]

    with jax.checking_leaks():
        np.testing.assert_allclose(outer(CLOSED_OVER[kind]()), use(x, CLOSED_OVER[kind]()), rtol=1e-6)


def test_what_an_inner_call_closes_over_is_a_constant():
    weights = jnp.arange(3.0)
    inner = jax.jit(lambda x: x * weights)
    for hoist in (False, True):
        closed = jax.make_jaxpr(lambda x: inner(x) + inner(2 * x))(jnp.ones(3))
        program = jaxprs.flatten(closed, hoist=hoist)
        held = list(closed.consts) if hoist else []
        (out,) = program.evaluate([*held, jnp.ones(3)], program.outputs)
        np.testing.assert_array_equal(out, 3 * weights)


# --- flattening ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrap",
    [jax.jit, jax.checkpoint, lambda f: jax.jit(jax.jit(f)), lambda f: jax.checkpoint(jax.jit(f))],
    ids=["jit", "checkpoint", "jit-jit", "checkpoint-jit"],
)
def test_calls_are_inlined(wrap):
    program, _, _ = jaxprs.trace(wrap(lambda x: jnp.sin(x) * 2), X)
    assert primitives(program) == [p.sin_p, p.mul_p]


def test_equal_equations_on_equal_inputs_are_one():
    def f(x):
        return jnp.sin(x) + jnp.sin(x), jnp.sin(x + 1), jax.jit(jnp.sin)(x)

    program, _, _ = jaxprs.trace(f, X)
    assert primitives(program).count(p.sin_p) == 2


@pytest.mark.parametrize(
    "f",
    [
        lambda x: (x * 2.0, x * 3.0),
        lambda x: (x + 0.0, x + -0.0),
        lambda x: (x.sum(0), x.sum(1)),
        lambda x: (x.astype(jnp.int32), x.astype(jnp.int8)),
    ],
    ids=["literals", "signed zeros", "axes", "types"],
)
def test_equations_that_differ_stay_apart(f):
    program, _, _ = jaxprs.trace(f, X)
    assert len(program.equations) == 2


def test_equations_of_different_contexts_stay_apart():
    key = jax.random.key(0)

    def bits(partitionable):
        with jax.threefry_partitionable(partitionable):
            return jax.random.bits(key, (3,))

    program, _, _ = jaxprs.trace(lambda: (bits(True), bits(False)))
    assert primitives(program).count(p.random_bits_p) == 2


def test_effects_are_never_merged():
    def f(x):
        jax.debug.callback(lambda: None)
        jax.debug.callback(lambda: None)
        return x

    program, _, _ = jaxprs.trace(f, X)
    assert len([e for e in program.equations if e.effects]) == 2


def test_loops_and_conditionals_stay_single_equations():
    def f(x):
        x = lax.fori_loop(0, 3, lambda i, x: jnp.sin(x), x)
        x = lax.cond(x[0, 0] > 0, jnp.cos, jnp.exp, x)
        return lax.while_loop(lambda x: x[0, 0] < 1, lambda x: x + 1, x)

    kinds = primitives(jaxprs.trace(f, X)[0])
    assert kinds.count(p.scan_p) == kinds.count(p.cond_p) == kinds.count(p.while_p) == 1
    assert p.exp_p not in kinds


def test_the_bodies_of_a_higher_order_equation_are_programs():
    program, _, _ = jaxprs.trace(lambda x: lax.cond(x[0, 0] > 0, jnp.cos, jnp.exp, x), X)
    (cond,) = [e for e in program.equations if e.primitive is p.cond_p]
    assert {b.equations[0].primitive for b in jaxprs.subprograms(cond)} == {p.cos_p, p.exp_p}


def test_the_name_stack_of_inlined_calls_is_kept():
    @jax.jit
    def inner(x):
        with jax.named_scope("inner"):
            return jnp.sin(x)

    def f(x):
        with jax.named_scope("outer"):
            return inner(x)

    (equation,) = jaxprs.trace(f, X)[0].equations
    assert equation.module.startswith("outer") and equation.module.endswith("inner")


def test_an_equation_names_the_line_that_wrote_it():
    (equation,) = jaxprs.trace(lambda x: jnp.sin(x), X)[0].equations
    assert "test_jaxprs.py" in equation.line


# --- fingerprints --------------------------------------------------------------------------------------


def layered(scale, width=4):
    def f(x):
        h = jax.nn.relu(x @ jnp.ones((4, width)))
        return lax.scan(lambda c, _: (jnp.sin(c) * scale, None), h, None, length=2)[0]

    return f


def test_retracing_gives_the_same_fingerprint():
    assert jaxprs.trace(layered(2.0), X)[0].fingerprint() == jaxprs.trace(layered(2.0), X)[0].fingerprint()


def test_retracing_the_vjp_gives_the_same_fingerprint():
    one, two = (trace_vjp(jaxprs.trace(layered(2.0), X)[0]).program for _ in range(2))
    assert one.fingerprint() == two.fingerprint()


@pytest.mark.parametrize("other", [layered(3.0), layered(2.0, 5), jnp.sin])
def test_another_function_has_another_fingerprint(other):
    assert jaxprs.trace(layered(2.0), X)[0].fingerprint() != jaxprs.trace(other, X)[0].fingerprint()
