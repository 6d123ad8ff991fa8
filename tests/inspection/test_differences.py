"""Why the taxonomies differ is found in their reports."""

import jax
import jax.numpy as jnp

import bwsk_jax
from bwsk_jax.inspection.differences import differences, explanation

X, W = jax.ShapeDtypeStruct((4, 8), jnp.float32), jax.ShapeDtypeStruct((8, 2), jnp.float32)


def reports(fun):
    return [bwsk_jax.classify(fun, X, W, wrt=0, taxonomy=name) for name in ("strict", "reference")]


def network(x, w):
    with jax.named_scope("activation"):
        x = jnp.tanh(x)
    with jax.named_scope("down"):
        return x @ w


def test_each_side_is_named_with_its_reason():
    found = {d.module: (d.strict, d.reference, d.primitive) for d in differences(*reports(network))}
    assert found == {"activation": ("S", "K", "tanh"), "down": ("K", "S", "dot_general")}
    said = explanation(*reports(network))
    assert "1 of 2 leaf modules are strictly K" in said and "a projection to fewer dimensions" in said
    assert "1 of 2 leaf modules are strictly S" in said


def test_agreement_is_said_and_no_modules_are_not_spoken_of():
    def shifted(x, w):
        with jax.named_scope("shift"):
            return x + 1.0

    assert explanation(*reports(shifted)) == "The taxonomies agree on all 1 leaf modules."
    assert explanation(*reports(lambda x, w: x @ w)) == ""
