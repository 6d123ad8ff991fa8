"""Is what is predicted what XLA compiles, in kind, mesh axes, bytes and times?"""

import time

import jax
import pytest
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

import bwsk_jax
from tests.support.sharded import HALOS, PROGRAMS, SCANS, STEPS, bert_step


def assert_equal(program):
    report = program.predict()
    comparison = report.check(program.compile())
    assert comparison.equal, comparison
    assert comparison.agreeing == comparison.predicted == comparison.compiled > 0


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_small_program_meets_as_predicted(name):
    assert_equal(PROGRAMS[name])


@pytest.mark.parametrize("name", HALOS)
def test_halos_are_sent_as_predicted(name):
    assert_equal(HALOS[name])


@pytest.mark.parametrize("mesh", [pytest.param("data", marks=pytest.mark.slow), "data, model"])
def test_a_step_of_bert_meets_as_predicted(mesh):
    assert_equal(bert_step(mesh))


@pytest.mark.slow
@pytest.mark.parametrize(("mesh", "scan"), STEPS)
def test_a_step_of_bert_meets_as_predicted_however_it_is_split_and_walked(mesh, scan):
    assert_equal(bert_step(mesh, SCANS[scan]))


def test_a_thousand_devices_take_less_than_two_seconds_and_need_not_be_there():
    program = bert_step("data, model")
    mesh = AbstractMesh((128, 8), ("data", "model"))
    params, ids, key = program.args
    ids = jax.ShapeDtypeStruct((1024, 32), ids.dtype)
    predict = lambda: bwsk_jax.calm(program.fun, params, ids, key, mesh=mesh, in_specs=program.in_specs)
    predict()  # so that what is imported late is not timed
    start = time.process_time()
    report = predict()
    assert time.process_time() - start < 2
    assert {meeting.devices for meeting in report.meetings if meeting.axes == ("data",)} == {128}
    assert report.times == program.predict().times


def test_a_prediction_asks_no_device():
    before = jax.live_arrays()
    x = jax.ShapeDtypeStruct((1 << 20, 1 << 20), "float32")  # 4 TiB
    mesh = AbstractMesh((1 << 16,), ("data",))
    report = bwsk_jax.calm(lambda x: (x * 2).sum(), x, mesh=mesh, in_specs=(P("data"),))
    assert [meeting.kind for meeting in report.meetings] == ["all-reduce"]
    assert len(jax.live_arrays()) == len(before)
