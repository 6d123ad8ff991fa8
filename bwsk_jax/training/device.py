"""Which of JAX's platforms a run computes on, chosen before JAX is first used."""

import jax

from bwsk_jax.errors import UserError
from bwsk_jax.targets.machines import keep_libtpu_quiet

# With the CPU beside it, which callbacks and checkpoints use.
PLATFORMS = {"cpu": "cpu", "gpu": "cuda,cpu"}


class DeviceError(UserError):
    """The user asked for a device that JAX does not find."""


def select_device(device: str) -> None:
    """Make JAX compute on `device`: cpu, gpu, or auto, which is JAX's own choice and heeds JAX_PLATFORMS.

    Raises `DeviceError` if there is no such device.
    """
    keep_libtpu_quiet()
    if device in PLATFORMS:
        jax.config.update("jax_platforms", PLATFORMS[device])
    try:
        found = jax.default_backend()
    # A platform named in JAX_PLATFORMS fails with an assertion or a RuntimeError, whichever it is.
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0] if str(error) else "no such device was found"
        platforms = getattr(jax.config, "jax_platforms")  # noqa: B009 (type checkers do not see it)
        asked = f"--device {device}" if device in PLATFORMS else f"JAX_PLATFORMS={platforms}"
        raise DeviceError(f"{asked}: {reason}: give --device cpu") from None
    if device != "auto" and found != device:
        raise DeviceError(f"--device {device}: JAX finds none, only {found}: give --device {found}")
