"""Which device a function is traced for, where that makes a difference.

It is that of the machine here, unless somebody compiles for another one and says so. The caches of `jax.jit`
tell the two apart.
"""

from __future__ import annotations

import contextlib

import jax

__all__ = ["device", "platform", "traced_for"]

_TRACED_FOR = jax.make_user_context(None)


def device() -> tuple[str, str]:
    """The platform, and the kind of device as `jax.Device.device_kind` has it; "" where none was named."""
    return _TRACED_FOR.value or (jax.default_backend(), jax.devices()[0].device_kind)


def platform() -> str:
    """The platform as JAX has it: cpu, tpu, or gpu whoever made it."""
    return device()[0]


def traced_for(platform: str | None, kind: str = "") -> contextlib.AbstractContextManager:
    """A context in which functions are traced for this kind of device; None is the platform here."""
    return _TRACED_FOR(None if platform is None else (platform, kind))
