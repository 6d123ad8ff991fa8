"""Is each difference between a prediction and a compiled program found, and its reason named?"""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from bwsk_jax.coordination import differences
from bwsk_jax.coordination.compiled import CompiledCollective, compiled_collectives
from bwsk_jax.coordination.differences import compare
from bwsk_jax.coordination.meetings import Meeting
from tests.support.sharded import PROGRAMS, Sharded, array


def predicted(kind="all-reduce", axes=("data",), bytes=64, times=1, primitive="dot_general"):
    unknown = {"why": "", "letter": "", "module": "", "source": "", "readers": (), "depth": 1, "maker": None}
    return Meeting(kind, axes, 4, bytes, times, equation=0, primitive=primitive, **unknown)


def compiled(kind="all-reduce", axes=("data",), bytes=64, times=1, operation="jit(f)/dot_general"):
    return CompiledCollective(kind, axes, 4, bytes, times, operation)


def reasons(*args):
    return [difference.reason for difference in compare(*args).differences]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([predicted(axes=("data", "model"))], [compiled(axes=("data",)), compiled(axes=("model",))]),
        ([predicted("reduce-scatter", bytes=16)], [compiled()]),
        ([predicted(times=2)], [compiled(), compiled()]),
    ],
)
def test_what_is_the_same_in_another_form_is_no_difference(one, other):
    comparison = compare(one, other)
    assert comparison.equal and str(comparison).startswith("equal")


@pytest.mark.parametrize(
    ("one", "other", "reason"),
    [
        (predicted(), compiled(bytes=32), "narrowed"),
        (predicted(), compiled(bytes=128), "widened"),
        (predicted("all-gather"), compiled(), "a small gather done as a sum"),
        (predicted(), compiled("all-gather"), "parts gathered in place of their sum"),
        (predicted("all-to-all", bytes=16), compiled("all-gather"), "gathered whole and then cut"),
        (predicted("all-to-all", primitive="gather"), compiled(operation="gather"), "each device looks up"),
        (predicted("all-gather"), compiled("collective-permute", bytes=16), "windowed einsum"),
    ],
)
def test_one_collective_may_stand_in_for_another(one, other, reason):
    (difference,) = compare([one], [other]).differences
    assert difference.reason.startswith(reason)
    assert difference.predicted and difference.compiled
    assert not compare([one], [other]).unexplained


def test_other_reasons():
    gather = predicted("all-gather")
    assert reasons([gather], [compiled("all-gather", times=2)]) == [differences.REPEATED]
    assert reasons([dataclasses.replace(gather, times=2)], [compiled("all-gather")]) == [differences.COMBINED]
    halo = compiled("collective-permute", operation="jit(f)/conv_general_dilated")
    assert reasons([], [halo]) == [differences.HALO]
    shifted = compiled("collective-permute", operation="jit(f)/gelu")
    assert reasons([], [shifted]) == [differences.UNEXPLAINED]
    assert reasons([], [compiled("collective-permute")]) == [differences.WINDOWED]
    assert reasons([], [compiled("all-gather", operation="jit(f)/top_k")]) == [differences.WHOLE_OPERAND]


def test_axes_have_to_be_the_same():
    comparison = compare([predicted()], [compiled(axes=("model",), bytes=32)])
    assert [d.reason for d in comparison.differences] == [differences.UNEXPLAINED] * 2
    assert comparison.unexplained == comparison.differences
    assert "predicted all-reduce over data of 64 bytes, compiled none at dot_general" in str(comparison)


def test_a_meeting_that_is_left_out_of_a_prediction_is_found():
    program = PROGRAMS["data and tensor parallel"]
    report = program.predict()
    found = compiled_collectives(program.compile(), report.mesh)
    for n, meeting in enumerate(report.meetings):
        rest = [*report.meetings[:n], *report.meetings[n + 1 :]]
        (difference,) = compare(rest, found).differences
        assert difference.predicted is None and difference.compiled.bytes == meeting.bytes
        assert difference.compiled.axes == meeting.axes


def reasons_of(fun, *args, specs, out=None):
    comparison = Sharded(fun, args, {"data": 4}, specs, out).predict_and_check()
    return {difference.reason for difference in comparison.differences}


def test_the_gradient_of_a_filter_has_halos_that_are_not_predicted():
    convolve = lambda w, x: jax.lax.conv_general_dilated(x, w, (1, 1), "SAME")
    gradient = jax.grad(lambda w, x: jnp.sin(convolve(w, x)).sum())
    args = array(4, 3, 3, 3), array(2, 3, 16, 16)
    assert reasons_of(gradient, *args, specs=(P(), P(None, None, "data"))) == {differences.HALO}


def test_rows_of_a_split_table_are_looked_up_where_they_are():
    look_up = lambda table, places: table[places]
    args = array(32, 16), array(64, dtype=jnp.int32)
    found = reasons_of(look_up, *args, specs=(P("data"), P()), out=P(None, "data"))
    assert found == {differences.LOOK_UP}


def test_the_operand_of_a_selection_is_gathered_though_it_is_local():
    largest = lambda x: jax.lax.top_k(x, 2)[0]
    assert reasons_of(largest, array(32, 16), specs=(P("data"),)) == {differences.WHOLE_OPERAND}


def test_what_is_sent_twice_alike_is_sent_once():
    combine = lambda a, b: (a[0] * b[0], a[1] * b[0] + b[1])
    recursion = lambda x: jax.lax.associative_scan(combine, (x, x))[1]
    program = Sharded(recursion, (array(32, 4),), {"data": 8}, (P("data"),))
    assert {d.reason for d in program.predict_and_check().differences} == {differences.COMBINED}


def test_a_rotation_is_sent_at_once():
    found = reasons_of(lambda x: x + jnp.roll(x, 3, 0), array(16, 4), specs=(P("data"),), out=P("data"))
    assert found == {differences.ROTATION}


def test_arrays_that_meet_together_count_one_by_one():
    text = """\
ENTRY %main (x: f32[8]) -> f32[8] {
  %both = (f32[8], bf16[4]) all-reduce(%a, %b), replica_groups={{0,1},{2,3}}, to_apply=%add
  %all = f32[8] all-reduce(%a), replica_groups={}, to_apply=%add
  %alone = f32[8] all-reduce(%a), replica_groups=[4,1]<=[4], to_apply=%add
  %next = f32[8] collective-permute(%a), source_target_pairs={{0,2},{2,0},{1,3},{3,1}}
  ROOT %parts = (f32[4], f32[4]) all-to-all(%a, %b), replica_groups=mesh['x'=2,'y'=2] {'x'}
}
"""
    found = compiled_collectives(text, {"a": 2, "b": 2})
    assert [(each.kind, each.axes, each.devices, each.bytes) for each in found] == [
        ("all-reduce", ("b",), 2, 32),
        ("all-reduce", ("b",), 2, 8),
        ("all-reduce", ("a", "b"), 4, 32),
        ("collective-permute", ("a",), 2, 32),
        ("all-to-all", ("a",), 2, 32),
    ]


def test_a_program_compiled_for_a_target_can_be_checked():
    from bwsk_jax.targets import compile_for

    x = jax.ShapeDtypeStruct((8, 4), jnp.float32)
    program = Sharded(jnp.tanh, (x,), {"data": 1}, (P(),))
    assert program.predict().check(compile_for(jnp.tanh, x)).equal
