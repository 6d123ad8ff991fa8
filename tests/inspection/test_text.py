"""The tables of the inspector."""

import re

import bwsk_jax
from bwsk_jax.inspection.text import difference_text
from tests.support.parity import INF, INIT, W
from tests.support.scan_bodies import coupling


def test_an_inverted_residual_stands_beside_the_equation_that_is_solved():
    plan = bwsk_jax.plan_scan(coupling, INIT, W, max_overhead=INF)
    text = difference_text(plan, "one layer", lambda kind, text: text)
    kept, inverted = re.match(r"Plain autodiff keeps ([\d,]+) bytes .* inverted ([\d,]+)", text).groups()
    assert kept != "0" and inverted != "0"
    assert re.search(r"inverted +solving (add|sub) \(rounded\)", text)
