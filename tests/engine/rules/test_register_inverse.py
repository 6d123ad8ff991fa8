"""A user's own rules serve report and plan, and what could never be used is refused."""

import functools
import math

import jax
import jax.numpy as jnp
import pytest
from jax.extend.core import Primitive
from jax.extend.core import primitives as p
from jax.interpreters import ad, mlir

import bwsk_jax
from bwsk_jax import classify
from tests.support.kinds import X, kinds


def shift_primitive(name):
    shift = Primitive(name)
    shift.def_impl(lambda x: x + 1)
    shift.def_abstract_eval(lambda x: x)
    mlir.register_lowering(shift, mlir.lower_fun(lambda x: x + 1, multiple_results=False))
    ad.deflinear2(shift, lambda ct, x: [ct])
    return shift


def test_a_rule_for_a_primitive_serves_both_report_and_plan():
    shift = shift_primitive("shift_by_one")
    assert classify(shift.bind, X).lines[0].kind == "K"
    keeps = lambda c, w: (shift.bind(c), jnp.sin(c) @ w)
    w = jnp.ones((1, 8, 8))
    before = bwsk_jax.plan_scan(keeps, X, w, max_overhead=math.inf)
    bwsk_jax.register_inverse(shift, lambda operands, outputs: outputs[0] - 1, grade="rounded")
    after = bwsk_jax.plan_scan(keeps, X, w, max_overhead=math.inf)
    assert (before.saved_bytes, after.saved_bytes, after.inverted) == (128, 0, 1)
    (line,) = classify(shift.bind, X).lines
    assert (line.kind, line.grade, line.operand) == ("S", "rounded", 0)


def test_a_rule_can_be_removed_again():
    shift = shift_primitive("shift_for_now")
    kind = lambda: classify(shift.bind, X).lines[0].kind
    back = lambda operands, outputs: outputs[0] - 1
    with bwsk_jax.register_inverse(shift, back) as rule:
        assert kind() == "S"
    assert kind() == "K"
    rule.remove()
    first = bwsk_jax.register_inverse(shift, back)
    second = bwsk_jax.register_inverse(shift, back)
    first.remove()
    assert kind() == "S"
    second.remove()
    assert kind() == "K"


def test_a_rule_for_a_function_with_a_custom_derivative():
    @jax.custom_vjp
    def scaled(x, scale):
        return jnp.abs(x) * scale

    scaled.defvjp(lambda x, s: (scaled(x, s), s), lambda s, ct: (ct * s, None))
    fun = jax.jit(lambda x, s: jnp.exp(scaled(x, s)))
    assert kinds(fun, X, jnp.float32(3)) == {"abs": ["K"], "mul": ["S"], "exp": ["S"]}
    bwsk_jax.register_inverse(
        scaled,
        lambda operands, outputs: outputs[0] / operands[1],
        condition="x is positive and the scale is not 0",
    )
    lines = classify(fun, X, jnp.float32(3)).lines
    assert [(line.primitive, line.kind) for line in lines] == [("custom_vjp_call", "S"), ("exp", "S")]
    assert lines[0].condition == "x is positive and the scale is not 0" and lines[0].operand == 0


def test_a_rule_for_a_function_that_closes_over_values():
    offset = jnp.ones((1, 8))

    @jax.custom_jvp
    def moved(x):
        return x + offset

    moved.defjvp(lambda primals, tangents: (moved(*primals), tangents[0]))
    bwsk_jax.register_inverse(
        moved, lambda operands, outputs: outputs[0] - offset, grade=bwsk_jax.Grade.ROUNDED
    )
    (line,) = classify(moved, X).lines
    assert line.kind == "S" and "operand" in line.why


def test_the_rules_of_jax_are_not_replaced():
    for primitive in (p.exp_p, p.sin_p, p.scan_p):
        with pytest.raises(ValueError, match=f"{primitive} is JAX's own"):
            bwsk_jax.register_inverse(primitive, lambda operands, outputs: outputs[0])
    with pytest.raises(ValueError, match="'sure'"):
        bwsk_jax.register_inverse(shift_primitive("shift_again"), lambda *_: None, grade="sure")


class Callable:
    def __call__(self, x):
        return x


@pytest.mark.parametrize(
    "target", [jnp.exp, jnp.sin, lambda x: x, jax.jit(lambda x: x), len, "sin", [1], None]
)
def test_a_rule_is_for_a_primitive_or_a_custom_derivative(target):
    with pytest.raises(TypeError, match="neither a primitive nor a function with a custom derivative"):
        bwsk_jax.register_inverse(target, lambda operands, outputs: outputs[0])


def test_a_rule_that_no_call_could_be_known_by_is_refused():
    with pytest.raises(TypeError, match="no code"):
        bwsk_jax.register_inverse(jax.custom_jvp(Callable()), lambda operands, outputs: outputs[0])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"operand": -1}, "from 0"),
        ({"amplification": math.inf}, "finite"),
        ({"amplification": -2}, "positive"),
    ],
)
def test_a_rule_out_of_range_is_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        bwsk_jax.register_inverse(shift_primitive("shift_badly"), lambda *_: None, **wrong)


def test_a_rule_has_to_be_a_function():
    with pytest.raises(TypeError, match="has to be a function"):
        bwsk_jax.register_inverse(shift_primitive("shift_badly"), None)


def test_a_rule_for_an_operand_that_is_not_there_names_it():
    shift = shift_primitive("shift_of_one")
    bwsk_jax.register_inverse(shift, lambda operands, outputs: outputs[0], operand=2)
    with pytest.raises(ValueError, match="shift_of_one has a rule for operand 2, and is called with 1"):
        classify(shift.bind, X)


def test_a_rule_that_gives_another_type_is_not_followed():
    shift = shift_primitive("shift_and_cut")
    bwsk_jax.register_inverse(shift, lambda operands, outputs: outputs[0][:1] - 1, grade="rounded")
    keeps = lambda c, w: (shift.bind(c), jnp.sin(c) * w)
    scan = lambda c: bwsk_jax.reversible_scan(keeps, c, jnp.ones(3), max_overhead=math.inf)[1].sum()
    with pytest.raises(ValueError, match=r"shift_and_cut gave float32\[1,8\].*float32\[4,8\]"):
        jax.grad(scan)(jnp.ones((4, 8)))


def test_a_rule_does_not_solve_for_what_it_reads():
    both = Primitive("both")
    both.def_abstract_eval(lambda x, y: x)
    bwsk_jax.register_inverse(both, lambda operands, outputs: outputs[0] - operands[1])
    assert kinds(both.bind, X, X) == {"both": ["S"]}
    assert kinds(lambda x: both.bind(x, x), X) == {"both": ["K"]}


def test_a_rule_for_a_function_with_bound_arguments():
    tripled = jax.custom_jvp(functools.partial(lambda factor, x: jnp.abs(x) * factor, 3.0))
    tripled.defjvp(lambda primals, tangents: (tripled(*primals), tangents[0]))
    bwsk_jax.register_inverse(tripled, lambda operands, outputs: outputs[0] / 3.0)
    assert kinds(tripled, X) == {"custom_jvp_call": ["S"]}
