"""No line of the drawing runs through a node that it does not belong to."""

import jax
import jax.numpy as jnp
import pytest

import bwsk_jax
from bwsk_jax import bert
from bwsk_jax.inspection.page.layout import lay_out


def chain(x):
    return jnp.exp(jnp.sin(jnp.tanh(x)))


def diamond(x):
    y = jnp.exp(x)
    return jnp.sin(y) * jnp.cos(y) + y


def lines_of(fun):
    return bwsk_jax.classify(fun, jax.ShapeDtypeStruct((4,), jnp.float32)).lines


def test_a_chain_is_one_column():
    assert lay_out(lines_of(chain)).columns == 1


def test_an_input_that_several_read_has_a_row():
    layout = lay_out(lines_of(lambda x: jnp.exp(x) + x))
    assert [node.line and node.line.primitive for node in layout.nodes] == [None, "exp", "add"]
    assert {(edge.source.row, edge.target.row) for edge in layout.edges} == {(0, 1), (0, 2), (1, 2)}


@pytest.mark.parametrize("lines", [lines_of(chain), lines_of(diamond)])
def test_nothing_stands_on_a_value_that_is_still_read(lines):
    check(lay_out(lines))


def test_nor_in_a_layer_of_bert():
    report = bert.classify_training(bert.PRESETS["demo"], 2, 16)
    layer = [line for line in report.lines if line.depth == 1]
    layout = lay_out(layer)
    check(layout)
    assert layout.columns < 10


def check(layout):
    assert len({(node.row, node.column) for node in layout.nodes}) == len(layout.nodes)
    for edge in layout.edges:
        crossed = range(edge.source.row + 1, edge.target.row)
        assert all(layout.nodes[row].column != edge.source.column for row in crossed)
