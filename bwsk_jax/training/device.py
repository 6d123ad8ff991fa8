"""Which of JAX's platforms a run computes on, and with which processes, chosen before JAX is first used."""

import jax

from bwsk_jax import processes
from bwsk_jax.errors import UserError
from bwsk_jax.targets.machines import keep_libtpu_quiet
from bwsk_jax.training.flags import OF_PROCESSES, FlagError, Flags

# With the CPU beside it, which callbacks and checkpoints use.
PLATFORMS = {"cpu": "cpu", "gpu": "cuda,cpu"}


class DeviceError(UserError):
    """The user asked for a device that JAX does not find."""


def find_processes(flags: Flags) -> None:
    """Join the other processes of the run, if `flags` say that there are such.

    Raises `FlagError` for flags that contradict each other, and `ProcessError`.
    """
    given = [f"--{name.replace('_', '-')}" for name in OF_PROCESSES if getattr(flags, name) is not None]
    if not given:
        return
    if flags.coordinator is None:
        raise FlagError(f"{given[0]} is of several processes: give --coordinator HOST:PORT as well")
    if flags.dry_run:
        raise FlagError("--coordinator is for training: a dry run compiles for all devices of --mesh alone")
    if flags.mesh is None:
        raise FlagError("--coordinator needs a --mesh of the devices of all processes, like data=8")
    if flags.coordinator != processes.ENVIRONMENT:
        _check_numbers(flags.coordinator, flags.num_processes, flags.process_id)
    processes.join(flags.coordinator, flags.num_processes, flags.process_id)


def _check_numbers(coordinator: str, count: int | None, number: int | None) -> None:
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal():
        raise FlagError(f"--coordinator {coordinator} is no address: give HOST:PORT, or auto")
    if count is None or number is None:
        raise FlagError(f"--coordinator {coordinator} needs --num-processes and --process-id")
    if number >= count:
        raise FlagError(f"--process-id {number} is not below --num-processes {count}")


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
