"""Does the interference test find each equation that needs a meeting, and no other?"""

import dataclasses

import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

import bwsk_jax
from bwsk_jax.coordination.interference import prove
from tests.support.sharded import HALOS, PROGRAMS, SCANS, STEPS, array, bert_step


def assert_proved(proof):
    assert not proof.missed and not proof.unneeded, (proof.missed, proof.unneeded)
    assert len(proof.skipped) <= 0.05 * len(proof.pairs)


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_a_small_program_needs_is_what_was_predicted(name):
    assert_proved(PROGRAMS[name].predict().prove())


@pytest.mark.parametrize("name", HALOS)
def test_no_halo_is_missed(name):
    proof = HALOS[name].predict().prove()
    assert not proof.missed, proof.missed
    assert not proof.skipped, proof.skipped


@pytest.mark.slow
def test_what_a_step_of_bert_needs_is_what_was_predicted():
    assert_proved(bert_step("data, model").predict().prove())


@pytest.mark.slow
@pytest.mark.parametrize(("mesh", "scan"), STEPS)
def test_what_any_step_of_bert_needs_is_what_was_predicted(mesh, scan):
    assert_proved(bert_step(mesh, SCANS[scan]).predict().prove())


def test_a_meeting_that_was_not_predicted_is_missed():
    report = PROGRAMS["a scan over layers"].predict()
    for left_out in range(len(report.meetings)):
        fewer = [meeting for n, meeting in enumerate(report.meetings) if n != left_out]
        proof = prove(report.module, report.equations, fewer, report.mesh)
        assert {pair.equation for pair in proof.missed} == {report.meetings[left_out].equation}
        assert "needs one and has none" in str(proof)


def test_a_meeting_that_nobody_needs_is_noticed():
    report = PROGRAMS["data parallel"].predict()
    free = next(n for n, found in report.equations.items() if found.primitive == "tanh")
    more = [*report.meetings, dataclasses.replace(report.meetings[0], equation=free)]
    proof = prove(report.module, report.equations, more, report.mesh)
    assert [(pair.equation, pair.axis) for pair in proof.unneeded] == [(free, "data")]
    assert "no dependence was seen" in str(proof)


def test_an_equation_along_an_axis_over_which_nothing_is_split_is_free():
    mesh = AbstractMesh((2, 2), ("data", "model"))
    report = bwsk_jax.calm(lambda x: jnp.sin(x).sum(0), array(8, 4), mesh=mesh, in_specs=(P("data"),))
    found = {(pair.primitive, pair.axis): pair.needed for pair in report.prove().pairs}
    assert found == {
        ("sin", "data"): False,
        ("sin", "model"): False,
        ("reduce_sum", "data"): True,
        ("reduce_sum", "model"): False,
    }


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.bool_, jnp.bfloat16, jnp.complex64])
def test_values_of_any_type_are_drawn(dtype):
    mesh = AbstractMesh((4,), ("data",))
    fun = lambda x: jnp.flip(x, 0)
    report = bwsk_jax.calm(
        fun, array(8, 4, dtype=dtype), mesh=mesh, in_specs=(P("data"),), out_specs=P("data")
    )
    (pair,) = report.prove().pairs
    assert pair.needed
