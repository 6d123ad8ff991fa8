"""The tables of the inspector."""

import itertools
import re

import bwsk_jax
from bwsk_jax.inspection.text import difference_text, plain, plan_text
from bwsk_jax.inspection.walks import walks
from tests.support.parity import INF, INIT, W
from tests.support.scan_bodies import coupling


def test_an_inverted_residual_stands_beside_the_equation_that_is_solved():
    plan = bwsk_jax.plan_scan(coupling, INIT, W, max_overhead=INF)
    text = difference_text(plan, "one layer", plain)
    kept, inverted = re.match(r"Plain autodiff keeps ([\d,]+) bytes .* inverted ([\d,]+)", text).groups()
    assert kept != "0" and inverted != "0"
    assert re.search(r"inverted +solving (add|sub) \(rounded\)", text)


def test_the_phases_that_a_plan_walks_back_through_are_shown_with_their_inverses():
    text = plan_text(bwsk_jax.plan_scan(coupling, INIT, W, max_overhead=INF), "one layer", plain)
    walked, phases = re.search(r"walks back through (\d+) of the (\d+) S-phases of one layer:", text).groups()
    assert 0 < int(walked) <= int(phases)
    assert len(re.findall(r"^\d+ to \d+ .* (add|sub) \(rounded\)", text, re.MULTILINE)) == int(walked)


def test_each_inverse_step_of_a_plan_is_in_a_phase_and_in_one_alone():
    plan = bwsk_jax.plan_scan(coupling, INIT, W, max_overhead=INF)
    phases = walks(plan)
    assert [p.first <= p.last for p in phases] == [True] * len(phases)
    assert all(a.last + 1 < b.first for a, b in itertools.pairwise(phases))
    solved = [source.equation for phase in phases for source in phase.inverted]
    assert sorted(solved) == sorted(step.equation for step in plan.steps if step.inverts)
    assert all(p.first <= s.equation <= p.last for p in phases for s in p.inverted)


def test_without_inverses_no_phase_is_walked_back():
    text = plan_text(bwsk_jax.plan_scan(coupling, INIT, W, invert=False), "one layer", plain)
    assert re.search(r"walks back through 0 of the \d+ S-phases of one layer\.", text)
