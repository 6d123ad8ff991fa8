"""A report says S and K of every equation, wherever it stands, and reads the same however it is written."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import Primitive
from jax.sharding import Mesh, PartitionSpec

import bwsk_jax
from tests.support.kinds import X, kinds

SQUARE = jax.ShapeDtypeStruct((8, 8), jnp.float32)
classify = bwsk_jax.classify


# --- equations ---------------------------------------------------------------------------------------------


def test_an_s_line_names_operand_side_information_and_condition():
    (line,) = classify(lambda x, y: x * y, X, X).lines
    assert (line.kind, line.operand, line.given, line.side_bytes) == ("S", 0, ("0:1",), 4 * 8 * 4)
    assert line.grade == "guarded" and line.condition == "the other factor is not 0"
    assert (line.bytes_in, line.bytes_out, line.flops) == (2 * 128, 128, 32)
    assert "test_classify.py" in line.source


def test_side_information_counts_where_it_was_smallest():
    (add,) = [e for e in classify(lambda x, b: x + b, X, jnp.ones((1, 8))).lines if e.primitive == "add"]
    assert add.operand == 0 and add.side_bytes == 8 * 4


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


def test_an_unused_argument_is_dropped():
    assert classify(lambda x, y: x + 1, X, X).values == {"B": 2, "W": 0, "K": 1}


def test_a_value_used_twice_is_w():
    assert classify(lambda x: jnp.exp(x) + x, X).values == {"B": 2, "W": 1, "K": 0}


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
    (add,) = [e for e in classify(lambda x, w: x + 2 * w, X, X, wrt=[1]).lines if e.primitive == "add"]
    assert add.operand == 1


@pytest.mark.parametrize(("wrt", "said"), [(2, "argument 2.* given 2"), ([0, -3], "argument -3")])
def test_what_is_followed_has_to_be_an_argument(wrt, said):
    with pytest.raises(ValueError, match=said):
        classify(jnp.multiply, X, X, wrt=wrt)
    with pytest.raises(TypeError, match=r"'x'.* number of an argument"):
        classify(jnp.multiply, X, X, wrt="x")


def test_numbers_of_arguments_may_be_of_numpy():
    assert classify(jnp.multiply, X, X, wrt=np.int64(1)) == classify(jnp.multiply, X, X, wrt=1)


def test_a_token_carries_nothing():
    report = classify(lambda x: (lax.after_all(lax.create_token(x)), jnp.exp(x)), X)
    assert report.lines[-1].kind == "S" and {line.bytes_out for line in report.lines[:-1]} == {0}
    assert str(classify(lambda x: (lax.create_token(x), jnp.exp(x)), X, taxonomy="reference"))


def test_a_mask_is_nothing_to_divide_by():
    keep = jax.ShapeDtypeStruct((4, 8), bool)
    assert kinds(lambda x, m: x * (m / 0.9), X, keep, wrt=0)["mul"] == ["K"]


def test_another_taxonomy_is_refused_by_name():
    with pytest.raises(ValueError, match=r"'stricter'.*strict.*reference"):
        classify(jnp.exp, X, taxonomy="stricter")


# --- bodies ------------------------------------------------------------------------------------------------


def stacked(x, ws):
    return lax.scan(lambda c, w: (jnp.tanh(c @ w) + c, None), x, ws)[0]


def unrolled(x, ws):
    for w in ws:
        x = jnp.tanh(x @ w) + x
    return x


def test_a_scan_counts_its_body_as_often_as_it_runs():
    ws = jnp.ones((5, 8, 8))
    scanned, written_out = classify(stacked, X, ws, wrt=0), classify(unrolled, X, ws, wrt=0)
    inside = [line for line in scanned.lines if line.depth == 1]
    assert [line.primitive for line in inside] == ["dot_general", "tanh", "add"]
    assert {(line.repeats, line.parent) for line in inside} == {(5, 0)}
    assert scanned.lines[0].kind == "B" and scanned.combinators["S"] == 15
    slices = {"slice", "squeeze", "dynamic_slice", "unstack", "split"}
    same = [line.kind for line in written_out.lines if line.primitive not in slices]
    assert same == [line.kind for line in inside] * 5


def test_a_loop_that_never_runs_is_looked_into():
    add = lambda x: lax.scan(lambda c, y: (c + jnp.tanh(y), None), jnp.zeros(8), x)[0]
    report = classify(add, jax.ShapeDtypeStruct((0, 8), jnp.float32))
    assert report.rounds == {1: 0} and "scan x 0" in str(report)
    nested = classify(lambda xs: lax.map(add, xs), jax.ShapeDtypeStruct((0, 3, 8), jnp.float32))
    assert nested.combinators["S"] == 0 and str(nested)


@jax.custom_vjp
def cube(x):
    return x * 3.0


cube.defvjp(lambda x: (x * 3.0, None), lambda _, ct: (3.0 * ct,))


@jax.custom_jvp
def third(x):
    return x / 3.0


third.defjvp(lambda primals, tangents: (third(*primals), tangents[0] / 3.0))

MESH = Mesh(np.array(jax.devices()[:1]), ("i",))
WRAPPERS = {
    "jit": (jax.jit, 0),
    "remat": (jax.checkpoint, 0),
    "custom_vjp": (lambda f: lambda x: f(cube(x) / 3.0), 0),
    "custom_jvp": (lambda f: lambda x: f(third(x) * 3.0), 0),
    "cond": (lambda f: lambda x: lax.cond(x[0, 0] > 0, f, lambda x: x, x), 1),
    "while": (lambda f: lambda x: lax.while_loop(lambda c: c.sum() < 9, f, x), 1),
    "scan": (lambda f: lambda x: lax.scan(lambda c, _: (f(c), None), x, None, length=3)[0], 1),
    "shard_map": (
        lambda f: jax.shard_map(f, mesh=MESH, in_specs=PartitionSpec("i"), out_specs=PartitionSpec("i")),
        1,
    ),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_every_construct_is_descended_into(name):
    wrap, depth = WRAPPERS[name]
    report = classify(wrap(lambda x: jnp.exp(jnp.sin(x))), X)
    found = {line.primitive: (line.kind, line.depth) for line in report.lines}
    assert found["exp"] == ("S", depth) and found["sin"] == ("K", depth)
    assert [line.number for line in report.lines] == list(range(len(report.lines)))
    for line in report.lines:
        assert line.depth == 0 or report.lines[line.parent].kind == "B"


def test_what_crosses_devices_is_classed():
    spread = jax.shard_map(
        lambda x: lax.psum(jnp.exp(x), "i"), mesh=MESH, in_specs=PartitionSpec("i"), out_specs=PartitionSpec()
    )
    (line,) = [line for line in classify(spread, X).lines if line.primitive.startswith("psum")]
    assert (line.kind, line.why) == ("K", "many devices' values become one")


# --- phases ------------------------------------------------------------------------------------------------


def test_a_phase_is_what_lies_between_two_that_erase():
    def fun(x):
        x = jnp.sin(x)  # K
        y = jnp.exp(x) * 2.0  # S S
        z = jnp.abs(y)  # K
        return jnp.exp(z)  # S

    report = classify(fun, X)
    assert [(phase.first, phase.last) for phase in report.phases] == [(1, 2), (4, 4)]
    first, second = report.phases
    assert (first.bytes_in, first.bytes_out) == (128, 128)
    # sin keeps cos x, exp its result, mul nothing, abs the sign of its operand
    assert first.gives_back == ("0:2",) and first.bytes_given_back == 128 and first.given == ()
    assert second.gives_back == ()


def test_an_operand_is_not_given_back_from_itself():
    """x * sigmoid(x) cannot be walked back: the other factor comes from x."""
    report = classify(lambda x: jnp.sin(x * jax.nn.sigmoid(x)), X)
    assert all(phase.gives_back == () for phase in report.phases)


def test_a_residual_sum_gives_back_its_stream():
    """What a branch was added to comes back given the branch, and sin keeps a function of it."""
    report = classify(lambda x: (jnp.exp(x) + jnp.cos(x)) * 2.0, X)
    assert [(phase.first, phase.last) for phase in report.phases] == [(0, 0), (2, 3)]
    assert report.phases[1].gives_back == ("0:1",) and report.phases[1].given == ("0:2",)


def test_what_has_no_derivative_gives_back_nothing_that_is_known():
    report = classify(lambda x: lax.while_loop(lambda c: c.sum() < 9, lambda c: c + 1.0, x) + 1.0, X)
    assert {phase.gives_back for phase in report.phases if phase.repeats} >= {None}


def test_a_derivative_that_refuses_gives_back_nothing_that_is_known():
    @jax.custom_jvp
    def refuses(x):
        return jnp.exp(x)

    @refuses.defjvp
    def _(primals, tangents):
        raise RuntimeError("no gradient")

    (phase,) = classify(refuses, X).phases
    assert phase.gives_back is None


# --- report ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("taxonomy", ["strict", "reference"])
def test_a_report_is_text_and_json(taxonomy):
    report = classify(stacked, X, jnp.ones((5, 8, 8)), taxonomy=taxonomy)
    data = json.loads(report.to_json())
    assert data["schema"] == 1 and data["taxonomy"] == taxonomy
    assert set(data) == {
        *("schema", "taxonomy", "combinators", "ratios", "leaf_modules"),
        *("equations", "phases", "modules"),
    }
    assert len(data["equations"]) == len(report.lines)
    for share in data["ratios"].values():
        assert math.isclose(sum(share.values()), 1.0) or sum(share.values()) == 0
    text = str(report)
    assert f"{taxonomy} taxonomy" in text and all(line.primitive in text for line in report.lines)


def test_an_empty_function_has_an_empty_report():
    report = classify(lambda x: x, X)
    assert report.lines == () and report.values == {"B": 1, "W": 0, "K": 0} and str(report)
