"""A report is a table, JSON and ratios."""

import json
import math

import jax.numpy as jnp
import pytest
from jax import lax

from bwsk_jax import classify
from tests.support.kinds import X


def stacked(x, ws):
    return lax.scan(lambda c, w: (jnp.tanh(c @ w) + c, None), x, ws)[0]


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
