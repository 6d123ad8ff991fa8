"""What a report says of each meeting, of the order of meetings, and of bytes."""

import json

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

import bwsk_jax
from tests.support.sharded import PROGRAMS, B, H, array, bert_step

MESH = AbstractMesh((2, 4), ("data", "model"))


def calm(fun, *args, specs, out=None, mesh=MESH):
    return bwsk_jax.calm(fun, *args, mesh=mesh, in_specs=specs, out_specs=out)


def only(report):
    (meeting,) = report.meetings
    return meeting


def test_a_sum_over_a_split_dimension():
    meeting = only(calm(lambda x: (x * 2).sum(0), array(8, 16), specs=(P("data", "model"),)))
    assert (meeting.kind, meeting.axes, meeting.devices) == ("all-reduce", ("data",), 2)
    assert (meeting.bytes, meeting.wire, meeting.times, meeting.depth) == (4 * 4, 4 * 4, 1, 1)
    assert (meeting.primitive, meeting.letter) == ("reduce_sum", "K")
    assert meeting.why == "sum over a split dimension"
    assert "test_report.py" in meeting.source


def test_a_maximum_is_called_one():
    meeting = only(calm(lambda x: x.max(0), array(8, 16), specs=(P("data"),)))
    assert meeting.why == "maximum over a split dimension"


def test_an_equation_that_preserves_may_need_meetings():
    report = calm(lambda x: jnp.flip(jnp.exp(x), 0), array(8, 16), specs=(P("data"),), out=P())
    assert [(m.kind, m.why) for m in report.meetings] == [
        ("collective-permute", "halo"),
        ("all-gather", "relayout"),
    ]
    assert (report.meetings[0].primitive, report.meetings[0].letter) == ("rev", "S")


def test_what_is_combined_on_each_device_needs_no_meeting_though_it_erases():
    report = calm(lambda x: x.max(1), array(8, 16), specs=(P("data"),))
    assert report.meetings == ()
    assert report.critical_path == 0
    assert "0 meetings" in str(report) and "none" in str(report)


def test_a_result_that_lies_elsewhere_is_nobodys_equation_or_that_of_its_maker():
    meeting = only(calm(lambda x: x * 2, array(8, 16), specs=(P("data"),), out=P()))
    assert meeting.kind == "all-gather"
    assert meeting.primitive in ("", "mul")


def test_a_gathered_constant_needs_no_meeting():
    fun = lambda x: (x, jnp.zeros((8, 16)).at[jnp.arange(8)].add(1.0))
    report = calm(fun, array(8, 16), specs=(P("data"),), out=(P("data"), P("data")))
    assert report.meetings == ()


def test_modules_are_named_without_the_numbers_of_equations():
    report = bert_step("data, model").predict()
    modules = {meeting.module for meeting in report.meetings}
    assert "Layer/feed_forward/down" in modules
    assert not any("equation" in module for module in modules)


def test_no_meeting_of_bert_is_in_a_dropout_or_an_activation():
    for mesh in ("data", "data, model", "sequence", "fully sharded"):
        report = bert_step(mesh).predict()
        assert not [m for m in report.meetings if "dropout" in m.module.lower() or "gelu" in m.module.lower()]


# --- order -------------------------------------------------------------------------------------------------


def rows(x):
    """A meeting along "data" that waits for what it reads."""
    return x + x.sum(0, keepdims=True)


def test_meetings_that_wait_for_each_other_are_on_the_critical_path():
    chain = calm(lambda x: rows(jnp.sin(rows(x))), array(8, 16), specs=(P("data"),))
    assert chain.critical_path == 2
    assert [meeting.depth for meeting in chain.meetings] == [1, 2]


def test_meetings_side_by_side_are_not():
    beside = calm(lambda x: (rows(x), jnp.cos(x).sum(0)), array(8, 16), specs=(P("data"),))
    assert beside.times == 2
    assert beside.critical_path == 1


@pytest.mark.parametrize("length", [1, 5])
def test_meetings_of_a_loop_that_hands_on_what_it_sums_wait_for_each_other(length):
    loop = lambda x: jax.lax.scan(lambda x, _: (jnp.sin(rows(x)), None), x, length=length)[0]
    report = calm(loop, array(8, 16), specs=(P("data"),))
    assert report.times == length
    assert report.critical_path == length
    assert only(report).depth == 1


def test_meetings_of_a_loop_that_hands_on_nothing_do_not():
    loop = lambda x: jax.lax.scan(lambda n, x: (n + 1, x.sum(0)), 0, x)
    report = calm(loop, array(5, 8, 16), specs=(P(None, "data"),))
    assert report.times == 5
    assert report.critical_path == 1


def test_phases_are_the_equations_between_meetings():
    report = calm(lambda x: jnp.cos(jnp.sin(x).sum(0)), array(8, 16), specs=(P("data"),))
    primitive = lambda number: report.equations[number].primitive
    found = [(phase.loop, phase.after, [primitive(n) for n in phase.equations]) for phase in report.phases]
    assert found == [(None, 0, ["sin", "reduce_sum"]), (None, 1, ["cos"])]


def test_the_body_of_a_loop_has_phases_of_its_own():
    loop = lambda x: jax.lax.scan(lambda x, _: (jnp.sin(rows(x)), None), x, length=3)[0]
    report = calm(loop, array(8, 16), specs=(P("data"),))
    loops = {phase.loop for phase in report.phases}
    assert {report.equations[loop].primitive for loop in loops if loop is not None} == {"scan"}


def test_data_parallelism_meets_once_in_a_row_and_tensor_parallelism_in_each_layer():
    assert bert_step("data").predict().critical_path == 1
    assert bert_step("model").predict().critical_path == 8  # twice in each of 2 layers, and again backward


# --- sums and forms ----------------------------------------------------------------------------------------


def test_bytes_are_added_up_by_axes():
    report = PROGRAMS["a scan over layers"].predict()
    total = {}
    for meeting in report.meetings:
        axes = "+".join(meeting.axes)
        total[axes] = total.get(axes, 0) + meeting.wire * meeting.times
    assert report.bytes_per_axis == total
    assert total["model"] == 2 * 3 * (B // 2 * H * 4)  # forward and back, 3 layers, half of the batch


def test_the_json_says_the_same():
    report = PROGRAMS["shard_map"].predict()
    found = json.loads(report.to_json())
    assert found["schema"] == 1
    assert [meeting["bytes"] for meeting in found["meetings"]] == [m.bytes for m in report.meetings]
    assert found["critical_path"] == report.critical_path
    assert found["bytes_per_axis"] == report.bytes_per_axis


def test_the_text_names_the_ratio_of_the_reference_for_what_it_is():
    program = bert_step("data, model")
    report = program.predict()
    assert (
        report.reference_modules
        == bwsk_jax.classify(program.fun, *program.args, taxonomy="reference").leaf_modules
    )
    assert "the same on every mesh, which predicts none of these meetings" in str(report)
    assert f"{report.reference_ratio:.1%}" in str(report)
    assert report.reference_ratio == bert_step("data").predict().reference_ratio


def test_axes_that_users_make_explicit_are_taken_as_automatic():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Explicit,))
    report = calm(lambda x: x.sum(0), array(8, 16), specs=(P("data"),), mesh=mesh)
    assert only(report).kind == "all-reduce"


def test_none_stands_for_the_whole_and_a_spec_for_all_that_an_argument_has():
    pair = (array(8, 16), array(8, 16))
    report = calm(lambda pair, y: (pair[0] + pair[1]) @ y, pair, array(16, 4), specs=(P("data"), None))
    assert report.meetings == ()


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="rows"):
        calm(lambda x: x, array(8, 16), specs=(P("rows"),))
    with pytest.raises(ValueError, match="evenly divide"):
        calm(lambda x: x, array(7, 16), specs=(P("data"),))
