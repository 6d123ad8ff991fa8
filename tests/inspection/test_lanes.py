"""No line of the drawing runs through a node that it does not belong to."""

import jax
import jax.numpy as jnp
import pytest

import bwsk_jax
from bwsk_jax import bert
from bwsk_jax.inspection.lanes import draw


def chain(x):
    return jnp.exp(jnp.sin(jnp.tanh(x)))


def diamond(x):
    y = jnp.exp(x)
    return jnp.sin(y) * jnp.cos(y) + y


def lines_of(fun):
    return bwsk_jax.classify(fun, jax.ShapeDtypeStruct((4,), jnp.float32)).lines


def test_a_chain_is_one_column():
    assert draw(lines_of(chain)).lanes == 1


def test_an_input_that_several_read_has_a_row():
    drawing = draw(lines_of(lambda x: jnp.exp(x) + x))
    assert [node.line and node.line.primitive for node in drawing.nodes] == [None, "exp", "add"]
    assert {(edge.source.row, edge.target.row) for edge in drawing.edges} == {(0, 1), (0, 2), (1, 2)}


@pytest.mark.parametrize("lines", [lines_of(chain), lines_of(diamond)])
def test_nothing_stands_on_a_value_that_is_still_read(lines):
    check(draw(lines))


def test_nor_in_a_layer_of_bert():
    report = bert.classify_training(bert.PRESETS["demo"], 2, 16)
    layer = [line for line in report.lines if line.depth == 1]
    drawing = draw(layer)
    check(drawing)
    assert drawing.lanes < 10


def check(drawing):
    assert len({(node.row, node.lane) for node in drawing.nodes}) == len(drawing.nodes)
    for edge in drawing.edges:
        crossed = range(edge.source.row + 1, edge.target.row)
        assert all(drawing.nodes[row].lane != edge.source.lane for row in crossed)
