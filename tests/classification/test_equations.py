"""An equation is S with the inverse that shows it, or K with the reason."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.extend.core import Primitive

from bwsk_jax import classify
from tests.support.kinds import X, kinds, only_line

SQUARE = jax.ShapeDtypeStruct((8, 8), jnp.float32)


def test_an_s_line_names_operand_side_information_and_condition():
    (line,) = classify(lambda x, y: x * y, X, X).lines
    assert (line.kind, line.operand, line.given, line.side_bytes) == ("S", 0, ("0:1",), 4 * 8 * 4)
    assert line.grade == "guarded" and line.condition == "the other factor is not 0"
    assert (line.bytes_in, line.bytes_out, line.flops) == (2 * 128, 128, 32)
    assert "test_equations.py" in line.source


def test_a_constant_declares_its_amplification():
    (line,) = classify(lambda x: x * 0.25, X).lines
    assert line.amplification == 4 and line.side_bytes == 0 and line.why.endswith("constants")


def test_narrowing_is_approximate_and_widening_exact():
    lines = classify(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), X).lines
    assert [(line.kind, line.grade) for line in lines] == [("~S", "narrowed"), ("S", "exact")]


def test_what_is_computed_and_dropped_is_k():
    report = classify(lambda x: (jnp.exp(x), x + 1)[1], X)
    assert [(line.primitive, line.kind) for line in report.lines] == [("exp", "K"), ("add", "S")]
    assert report.lines[0].why == "computed and dropped"
    assert report.combinators == {"B": 1, "W": 1, "S": 1, "K": 2}  # exp, and what it computed


def test_a_primitive_without_a_rule_erases_for_want_of_one():
    strange = Primitive("strange")
    strange.def_abstract_eval(lambda x: x)
    (line,) = classify(strange.bind, X).lines
    assert (line.kind, line.why) == ("K", "no rule")


@pytest.mark.parametrize(
    ("rows", "columns", "kind"), [(8, 8, "S"), (8, 9, "S"), (8, 7, "K"), (3, 8, "S"), (200, 64, "S")]
)
@pytest.mark.parametrize("write", [lambda x, w: x @ w, lambda x, w: jnp.einsum("bi,ij->bj", x, w)])
def test_a_projection_to_fewer_dimensions_erases(rows, columns, kind, write):
    x, w = jnp.ones((rows, 8)), jnp.ones((8, columns))
    assert kinds(write, x, w)["dot_general"] == [kind]
    assert kinds(write, x, w, wrt=0)["dot_general"] == [kind]


def test_a_matrix_maps_the_vector():
    assert kinds(lambda w, x: w @ x, SQUARE, jnp.ones(8))["dot_general"] == ["S"]
    assert kinds(lambda w, x: w @ x, jnp.ones((7, 8)), jnp.ones(8))["dot_general"] == ["K"]


def test_what_is_followed_has_to_come_back():
    """Rows of x are mapped to fewer dimensions; the matrix could be solved for, if it were looked for."""
    x, w = jnp.ones((20, 8)), jnp.ones((8, 3))
    assert kinds(jnp.dot, x, w, wrt=0)["dot_general"] == ["K"]
    assert kinds(jnp.dot, x, w, wrt=1)["dot_general"] == ["S"]
    assert kinds(jnp.dot, x, w, wrt=-1)["dot_general"] == ["S"]
    assert kinds(lambda x, w: x + 2 * w, X, X, wrt=[1])["add"] == ["S"]
    assert only_line("add", lambda x, w: x + 2 * w, X, X, wrt=[1]).operand == 1


def test_a_token_carries_nothing():
    report = classify(lambda x: (lax.after_all(lax.create_token(x)), jnp.exp(x)), X)
    assert report.lines[-1].kind == "S" and {line.bytes_out for line in report.lines[:-1]} == {0}
    assert str(classify(lambda x: (lax.create_token(x), jnp.exp(x)), X, taxonomy="reference"))
