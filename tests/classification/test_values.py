"""What is known of a value before it is computed: its role, where it was smallest, whether it masks."""

import jax
import jax.numpy as jnp

from bwsk_jax.classification.values import Role, ValueInfo
from bwsk_jax.engine.program.jaxprs import trace
from tests.support.kinds import X, kinds, only_line


def test_an_argument_that_is_moved_stays_one_and_what_is_computed_is_data():
    program, _, _ = trace(lambda w, x: (w.T, x.T, jnp.exp(w), 1.0), X, X)
    info = ValueInfo(program, [Role.ARGUMENT, Role.KNOWN])
    assert [*map(info.role, program.outputs)] == [Role.ARGUMENT, Role.KNOWN, Role.DATA, Role.KNOWN]


def test_side_information_counts_where_it_was_smallest():
    add = only_line("add", lambda x, b: x + b, X, jnp.ones((1, 8)))
    assert add.operand == 0 and add.side_bytes == 8 * 4


def test_a_mask_is_nothing_to_divide_by():
    keep = jax.ShapeDtypeStruct((4, 8), bool)
    assert kinds(lambda x, m: x * (m / 0.9), X, keep, wrt=0)["mul"] == ["K"]
