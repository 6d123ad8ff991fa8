"""An S-phase is a run between two equations that erase, and gives back residuals that autodiff would keep."""

import jax
import jax.numpy as jnp
from jax import lax

from bwsk_jax import classify
from tests.support.kinds import X


def test_a_phase_is_what_lies_between_two_that_erase():
    def fun(x):
        x = jnp.sin(x)  # K
        y = jnp.exp(x) * 2.0  # S S
        z = jnp.abs(y)  # K
        return jnp.exp(z)  # S

    report = classify(fun, X)
    assert [(phase.first, phase.last) for phase in report.phases] == [(1, 2), (4, 4)]
    first, second = report.phases
    assert (first.bytes_in, first.bytes_out) == (128, 128)
    # sin keeps cos x, exp its result, mul nothing, abs the sign of its operand
    assert first.gives_back == ("0:2",) and first.bytes_given_back == 128 and first.given == ()
    assert second.gives_back == ()


def test_an_operand_is_not_given_back_from_itself():
    """x * sigmoid(x) cannot be walked back: the other factor comes from x."""
    report = classify(lambda x: jnp.sin(x * jax.nn.sigmoid(x)), X)
    assert all(phase.gives_back == () for phase in report.phases)


def test_a_residual_sum_gives_back_its_stream():
    """What a branch was added to comes back given the branch, and sin keeps a function of it."""
    report = classify(lambda x: (jnp.exp(x) + jnp.cos(x)) * 2.0, X)
    assert [(phase.first, phase.last) for phase in report.phases] == [(0, 0), (2, 3)]
    assert report.phases[1].gives_back == ("0:1",) and report.phases[1].given == ("0:2",)


def test_what_has_no_derivative_gives_back_nothing_that_is_known():
    report = classify(lambda x: lax.while_loop(lambda c: c.sum() < 9, lambda c: c + 1.0, x) + 1.0, X)
    assert {phase.gives_back for phase in report.phases if phase.repeats} >= {None}


def test_a_derivative_that_refuses_gives_back_nothing_that_is_known():
    @jax.custom_jvp
    def refuses(x):
        return jnp.exp(x)

    @refuses.defjvp
    def _(primals, tangents):
        raise RuntimeError("no gradient")

    (phase,) = classify(refuses, X).phases
    assert phase.gives_back is None
