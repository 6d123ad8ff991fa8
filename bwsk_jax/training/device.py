"""Which of JAX's platforms a run computes on, chosen before JAX is first used."""

import jax

# With the CPU beside it, which callbacks and checkpoints use.
PLATFORMS = {"cpu": "cpu", "gpu": "cuda,cpu"}


class DeviceError(ValueError):
    """A device that was asked for and is not there."""


def select_device(device: str) -> None:
    """Have JAX compute on `device`: cpu, gpu, or auto, its own choice (which JAX_PLATFORMS may restrict).

    Raises `DeviceError` where there is none.
    """
    if device in PLATFORMS:
        jax.config.update("jax_platforms", PLATFORMS[device])
    try:
        found = jax.default_backend()
    # A platform named in JAX_PLATFORMS fails with an assertion or a RuntimeError, whichever it is.
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0] if str(error) else "no such device was found"
        asked = f"--device {device}" if device in PLATFORMS else f"JAX_PLATFORMS={jax.config.jax_platforms}"
        raise DeviceError(f"{asked}: {reason}: give --device cpu") from None
    if device != "auto" and found != device:
        raise DeviceError(f"--device {device}: JAX finds none, only {found}: give --device {found}")
