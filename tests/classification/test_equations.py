"""An equation is S with the inverse that shows it, or K with the reason."""

import re

import jax
import jax.numpy as jnp
import numpy as np
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


def test_indices_are_not_what_is_followed_where_elements_are_written():
    row, update = jnp.ones(8), jnp.ones(())
    writes = {
        "scatter-add": lambda x, i, u: x.at[i].add(u),
        "scatter-sub": lambda x, i, u: x.at[i].subtract(u),
        "scatter-mul": lambda x, i, u: x.at[i].multiply(u),
    }
    for primitive, write in writes.items():
        line = only_line(primitive, write, row, 1, update)
        assert (line.kind, line.operand) == ("S", 0)
    kept = lambda x, i, u: lax.dynamic_update_slice(x, u, (i,))
    assert only_line("dynamic_update_slice", kept, row, 1, jnp.ones(3)).operand == 1
    assert kinds(kept, row, 1, jnp.ones(3), wrt=0)["dynamic_update_slice"] == ["K"]
    assert kinds(lambda x, i: x.at[i].add(1.0), row, 1, wrt=1)["scatter-add"] == ["K"]


def test_a_system_of_equations_maps_its_right_hand_side():
    a, b = SQUARE, jax.ShapeDtypeStruct((8,), jnp.float32)
    assert only_line("custom_linear_solve", jnp.linalg.solve, a, b).operand == 6
    assert kinds(jnp.linalg.solve, a, b, wrt=0)["custom_linear_solve"] == ["K"]
    assert kinds(jnp.linalg.solve, a, b)["lu"] == ["S"]  # the pivots are dropped, the permutation is not
    assert kinds(jnp.linalg.inv, a)["custom_linear_solve"] == ["S"]
    determinant = lambda a: lax.linalg.lu(a)[0]
    assert only_line("lu", determinant, a).why == "computed and dropped"


def test_a_number_comes_back_from_the_key_that_it_was_folded_into_and_the_key_does_not():
    key, step = jax.random.key(0), jnp.int32(3)
    assert only_line("random_fold_in", jax.random.fold_in, key, step).operand == 1
    line = only_line("random_fold_in", jax.random.fold_in, key, step, wrt=0)
    assert (line.kind, line.why) == ("K", "no way from random bits to their key is known")


def test_a_print_erases_nothing_and_changes_nothing_else():
    def printing(x):
        y = jnp.exp(x)
        jax.debug.print("{}", y)
        jax.debug.callback(lambda _: None, x)
        return y + 1.0

    silent = lambda x: jnp.exp(x) + 1.0
    report = classify(printing, X)
    looks = [line for line in report.lines if line.why == "it only shows what it reads"]
    assert [line.kind for line in looks] == ["S", "S"]
    assert [line.kind for line in report.lines] == ["S"] * 4 and len(report.phases) == 1
    assert report.values == classify(silent, X).values
    only_printed = classify(lambda x: (jax.debug.print("{}", jnp.exp(x)), x + 1.0)[1], X)
    assert only_printed.lines[0].why == "computed and dropped"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float8_e4m3fn", "float8_e8m0fnu"])
def test_a_narrowing_cast_says_where_it_keeps_its_digits(dtype):
    """1e5 becomes inf in float16. Within the bounds that are named, x comes back to the type's precision."""
    line = only_line("convert_element_type", lambda x: x.astype(dtype), X)
    least, most = map(float, re.findall(r"\d\S*\d", line.condition)[-2:])
    assert line.kind == "~S"
    info = jnp.finfo(dtype)
    assert most == float(f"{float(info.max):.3g}")
    assert least == max(float(f"{jnp.finfo(each).tiny:.3g}") for each in ("float32", dtype))
    x = jnp.exp2(jnp.linspace(np.log2(least * 1.01), np.log2(most * 0.99), 1000))
    back = x.astype(dtype).astype(jnp.float32)
    assert (abs(back - x) <= float(info.eps) * x).all()


def test_reduced_precision_says_where_it_keeps_its_digits():
    line = only_line("reduce_precision", lambda x: lax.reduce_precision(x, 5, 10), X)
    assert line.condition == only_line("convert_element_type", lambda x: x.astype("float16"), X).condition


def test_a_token_carries_nothing():
    report = classify(lambda x: (lax.after_all(lax.create_token(x)), jnp.exp(x)), X)
    assert report.lines[-1].kind == "S" and {line.bytes_out for line in report.lines[:-1]} == {0}
    assert str(classify(lambda x: (lax.create_token(x), jnp.exp(x)), X, taxonomy="reference"))
