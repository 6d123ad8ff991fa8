"""`fit` on a model of a library, and what is claimed of what it finds."""

import equinox as eqx
import jax
import jax.numpy as jnp

from experiments import fits


def test_half_of_the_memory_is_kept_to_and_no_policy_is_faster():
    x = jax.ShapeDtypeStruct((256, 32), jnp.float32)
    call = lambda layer, x: jnp.tanh(jax.vmap(layer)(jnp.sin(x)))
    model = fits.stack_of(lambda key: eqx.nn.Linear(32, 32, key=key), call, x, 12)
    found = fits.fitted(model, None)
    assert fits.is_as_claimed(found)
    assert {way["way"] for way in found["tried"]} > set(fits.STOCK)


def test_a_faster_policy_or_too_large_a_peak_contradicts_the_claim():
    way = lambda name, peak, time: {"way": name, "peak": peak, "time": time, "fits": peak <= 10}
    claimed = lambda *ways: fits.is_as_claimed({"memory": 10, "best": "3% overhead", "tried": ways})
    assert claimed(way("3% overhead", 10, 5), way("jax.checkpoint", 9, 5), way("dots_saveable", 11, 4))
    assert not claimed(way("3% overhead", 10, 5), way("jax.checkpoint", 9, 4))
    assert not claimed(way("3% overhead", 11, 5))
