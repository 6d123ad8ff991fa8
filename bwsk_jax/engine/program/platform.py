"""Which platform a function is traced for, where that makes a difference.

It is the platform of the machine here, unless somebody compiles for another one and says so. The caches of
`jax.jit` tell the two apart.
"""

from __future__ import annotations

import contextlib

import jax

__all__ = ["platform", "traced_for"]

_TRACED_FOR = jax.make_user_context(None)


def platform() -> str:
    """The platform as JAX has it: cpu, tpu, or gpu whoever made it."""
    return _TRACED_FOR.value or jax.default_backend()


def traced_for(platform: str | None) -> contextlib.AbstractContextManager:
    """A context in which functions are traced for this platform; None is the one here."""
    return _TRACED_FOR(platform)
