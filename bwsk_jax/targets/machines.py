"""Targets: a device and how many of them, by the names that their users know."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import glob
import importlib.util
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils, topologies
from jax.sharding import AxisType, Mesh

from bwsk_jax.engine.program.platform import traced_for
from bwsk_jax.engine.rules.devices import DEVICES, Device, device_of
from bwsk_jax.errors import UserError
from bwsk_jax.targets.gpu_descriptions import DESCRIPTIONS

__all__ = ["Target", "TargetError", "compiler_of", "find_target", "keep_libtpu_quiet"]

_FLAT = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_DEEP = {
    **{2: "1x1x1", 8: "2x2x1", 16: "2x2x2", 32: "2x2x4"},
    **{64: "2x4x4", 128: "4x4x4", 256: "4x4x8", 512: "4x8x8"},
}
_HOSTS = {
    **{1: "1x1x1", 2: "1x1x2", 4: "1x1x4", 8: "1x1x8"},
    **{16: "1x2x8", 32: "1x4x8", 64: "1x8x8", 128: "1x16x8", 256: "1x32x8"},
}
SLICES = {"v5e": _FLAT, "v6e": _FLAT, "v5p": _DEEP, "h100": _HOSTS, "a100": _HOSTS}
"""By device, the sizes that a name may have, and what the compiler calls each.

Of a v5p, the name of a slice counts cores, two to a chip. GPUs are in one partition, on hosts of up to eight.
"""

_ANSWERS = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
}
"""To what libtpu asks the environment."""


class TargetError(UserError):
    """There is no such target, or this machine cannot compile for it; the message says what is missing."""


@dataclasses.dataclass(frozen=True)
class Target:
    """A machine to compile for."""

    name: str
    device: Device
    """One of its chips."""
    shape: str | None
    """How the chips are connected, in the compiler's words; None for the machine here."""

    @property
    def is_here(self) -> bool:
        """Whether it is the machine that this program runs on."""
        return self.shape is None

    @property
    def platform(self) -> str | None:
        """As `jax.default_backend` would have it there; None for this machine."""
        return None if self.is_here else {"cuda": "gpu"}.get(self.device.platform, self.device.platform)

    def tracing(self) -> contextlib.AbstractContextManager:
        """Return a context in which functions are traced for this target."""
        return traced_for(self.platform, self.device.kind)

    @property
    def memory(self) -> int:
        """Bytes of one chip."""
        return self.device.memory

    @property
    def devices(self) -> int:
        """How many chips there are."""
        return len(jax.devices()) if self.shape is None else math.prod(map(int, self.shape.split("x")))

    def mesh(self, shape: Sequence[int] | None = None, axis_names: Sequence[str] = ("devices",)) -> Mesh:
        """Return a mesh over the first chips, or over all; `compile_for` takes arguments that lie on it.

        Raises:
          TargetError: the compiler for this target is not installed.
          ValueError: the target has fewer chips.
        """
        chips = _described(self)
        shape = (len(chips),) if shape is None else tuple(shape)
        size = math.prod(shape)
        if size > len(chips):
            raise ValueError(f"a mesh of {size} devices does not fit on {self.name}, which has {len(chips)}")
        if size == len(chips):
            grid = mesh_utils.create_device_mesh(shape, chips, allow_split_physical_axes=True)
        else:
            grid = np.array(chips[:size]).reshape(shape)
        return Mesh(grid, tuple(axis_names), axis_types=(AxisType.Auto,) * len(shape))


def find_target(name: str | Target | None = None) -> Target:
    """The target of this name: a device, or with a number several of them. None is the machine here.

    Names are v5e, v5p, v6e, h100 and a100; v5e-16 has 16 chips, v5p-128 has 128 cores on 64 chips, and
    h100-16 is two hosts of eight.

    Raises `TargetError` for another name.

    >>> find_target("v5p-128").devices, find_target("v5e").memory / 2**30
    (64, 15.75)
    """
    if isinstance(name, Target):
        return name
    if name is None:
        return Target("this machine", _device_here(), None)
    device, _, size = name.partition("-")
    if device not in DEVICES:
        near = difflib.get_close_matches(device, DEVICES, n=1)
        names = f"there are {', '.join(DEVICES)}, and v5e-16 and so on"
        raise TargetError(f"there is no target {name!r}: {f'did you mean {near[0]}?' if near else names}")
    sizes = {str(size): shape for size, shape in SLICES[device].items()}
    size = size or min(sizes, key=int)
    if size not in sizes or name.endswith("-"):
        raise TargetError(f"there is no target {name!r}: {device} comes in {', '.join(sizes)}")
    return Target(name, DEVICES[device], sizes[size])


@contextlib.contextmanager
def compiler_of(target: Target) -> Iterator[None]:
    """What a compilation for `target` runs in.

    libtpu has an XLA of its own, which ends the process where XLA_FLAGS has a flag that it does not know. JAX
    has read the flags by then, and hands on what it made of them.
    """
    flags = os.environ.pop("XLA_FLAGS", None) if target.device.platform == "tpu" else None
    try:
        yield
    finally:
        if flags is not None:
            os.environ["XLA_FLAGS"] = flags


# --- the machine here --------------------------------------------------------------------------------------


def _device_here() -> Device:
    keep_libtpu_quiet()
    device = jax.devices()[0]
    found, memory = device_of(device.device_kind), _memory(device)
    if found is None:
        nothing = dict.fromkeys(("arithmetic", "bandwidth", "link"), 0.0)
        kind, platform = device.device_kind, device.platform
        return Device(kind, platform, kind, memory, {}, **nothing, source="not known")
    return dataclasses.replace(found, memory=memory)


def _memory(device: Any) -> int:
    """Bytes that JAX may take of the device, or those of the machine if it does not say."""
    try:
        stats = device.memory_stats()
    except jax.errors.JaxRuntimeError:
        stats = None
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


# --- machines that are not there ---------------------------------------------------------------------------


@functools.lru_cache
def _described(target: Target) -> Sequence[Any]:
    """The chips of a target, which need not be there."""
    if target.shape is None:
        return jax.devices()
    return _tpus(target) if target.device.platform == "tpu" else _gpus(target)


def _tpus(target: Target) -> Sequence[Any]:
    if importlib.util.find_spec("libtpu") is None:
        raise TargetError(f"compiling for {target.name} takes libtpu: pip install libtpu")
    keep_libtpu_quiet()
    name = f"{target.device.name}:{target.shape}"
    return topologies.get_topology_desc(platform="tpu", topology_name=name).devices


def keep_libtpu_quiet() -> None:
    """Answer what libtpu asks where there are no TPUs, or it complains and holds on to a file of locks."""
    if not glob.glob("/dev/accel*") + glob.glob("/dev/vfio/[0-9]*"):
        for name, value in _ANSWERS.items():
            os.environ.setdefault(name, value)


def _gpus(target: Target) -> Sequence[Any]:
    # Not with the name of this package, for its extra brings all that a GPU needs to run: gigabytes.
    wheels = f"jax-cuda13-plugin=={jax.__version__} jax-cuda13-pjrt=={jax.__version__}"
    if not _found("jax_plugins.xla_cuda13") and not _found("jax_plugins.xla_cuda12"):
        raise TargetError(
            f"compiling for {target.name} takes JAX's CUDA plugin: pip install --no-deps {wheels}, "
            "and a CUDA toolkit, or pip install nvidia-cuda-nvcc nvidia-nvvm"
        )
    text = DESCRIPTIONS[target.device.name]
    try:
        topology = topologies.get_topology_desc(platform="cuda", target_config=text, topology=target.shape)
    except NotImplementedError:
        raise TargetError(
            f"compiling for {target.name} without a GPU: set JAX_PLATFORMS=cpu before jax is imported"
        ) from None
    return topology.devices


def _found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
