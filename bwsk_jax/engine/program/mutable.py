"""Mutable arrays that a function makes for itself, such as an accumulator, as values.

What a plan runs again must change nothing. And JAX drops changes where it splits a loop into what is known
and what is not, as it does to differentiate: its own gradients of loops with such arrays are wrong.
"""

from __future__ import annotations

from typing import Any

from jax._src.state.discharge import discharge_state
from jax.extend.core import jaxprs_in_params
from jax.ref import AbstractRef

__all__ = ["makes_mutable_arrays", "without_mutable_arrays"]


def without_mutable_arrays(closed: Any) -> Any:
    """The closed jaxpr, with new values in place of changes of the mutable arrays that it makes."""
    return discharge_state(closed, should_discharge=False)


def makes_mutable_arrays(jaxpr: Any) -> bool:
    """Whether some are made in a jaxpr, or in the bodies of its equations."""
    made = (isinstance(v.aval, AbstractRef) for eqn in jaxpr.eqns for v in eqn.outvars)
    inner = (body for eqn in jaxpr.eqns for body in jaxprs_in_params(eqn.params))
    return any(made) or any(map(makes_mutable_arrays, inner))
