"""What devices compute and move per second, as data: what prices in time follow from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

__all__ = ["DEVICES", "Device", "flops_per_byte"]


@dataclasses.dataclass(frozen=True)
class Device:
    """One chip: peak figures of its maker, so that no program runs faster than they say."""

    name: str
    platform: str
    """As JAX has it: tpu, cuda or cpu."""
    kind: str
    """What `jax.Device.device_kind` begins with."""
    memory: int
    """Bytes that a program may take."""
    products: Mapping[str, float] = dataclasses.field(hash=False)
    """FLOP/s of matrix products, by the type of the operands and at JAX's default precision."""
    arithmetic: float
    """FLOP/s of everything else, in float32."""
    bandwidth: float
    """Bytes/s between memory and processor."""
    link: float
    """Bytes/s between this chip and its neighbours, both ways and all links together; 0 if there are none."""
    source: str
    """Where the figures are from."""


def _types(**flops: float) -> dict[str, float]:
    return {"float16": flops["bfloat16"], **flops}


_GIB, _T, _G = 2**30, 1e12, 1e9
_TPU = "https://cloud.google.com/tpu/docs/{}; the memory is what the compiler accepts; arithmetic is {}"
_LANES = "8 x 128 lanes x 4 units x {} at {} GHz (https://jax-ml.github.io/scaling-book/tpus)"

DEVICES = {
    device.name: device
    for device in (
        # A TPU rounds the operands of a float32 product to bfloat16 unless it is told otherwise.
        Device(
            name="v5e",
            platform="tpu",
            kind="TPU v5 lite",
            memory=int(15.75 * _GIB),
            products=_types(bfloat16=197 * _T, float32=197 * _T, int8=393 * _T),
            arithmetic=6.1 * _T,
            bandwidth=819 * _G,
            link=400 * _G,
            source=_TPU.format("v5e", _LANES.format("1 core", 1.5)),
        ),
        Device(
            name="v5p",
            platform="tpu",
            kind="TPU v5",
            memory=int(95.73 * _GIB),
            products=_types(bfloat16=459 * _T, float32=459 * _T, int8=918 * _T),
            arithmetic=14.3 * _T,
            bandwidth=2765 * _G,
            link=1200 * _G,
            source=_TPU.format("v5p", _LANES.format("2 cores", 1.75)),
        ),
        Device(
            name="v6e",
            platform="tpu",
            kind="TPU v6 lite",
            memory=int(31.24 * _GIB),
            products=_types(bfloat16=918 * _T, float32=918 * _T, int8=1836 * _T),
            arithmetic=7.2 * _T,
            bandwidth=1640 * _G,
            link=800 * _G,
            source=_TPU.format("v6e", _LANES.format("1 core", 1.75)),
        ),
        # On these GPUs JAX multiplies float32 in TF32.
        Device(
            name="h100",
            platform="cuda",
            kind="NVIDIA H100",
            memory=84_929_347_584,
            products=_types(bfloat16=989 * _T, float32=494 * _T, float8_e4m3fn=1979 * _T, int8=1979 * _T),
            arithmetic=67 * _T,
            bandwidth=3350 * _G,
            link=900 * _G,
            source="https://www.nvidia.com/en-us/data-center/h100 (SXM, without sparsity)",
        ),
        Device(
            name="a100",
            platform="cuda",
            kind="NVIDIA A100",
            memory=85_100_068_864,
            products=_types(bfloat16=312 * _T, float32=156 * _T, int8=624 * _T),
            arithmetic=19.5 * _T,
            bandwidth=2039 * _G,
            link=600 * _G,
            source="https://www.nvidia.com/en-us/data-center/a100 (SXM, 80 GB, without sparsity)",
        ),
    )
}

_TYPICAL = {"tpu": DEVICES["v5e"], "gpu": DEVICES["h100"]}


def flops_per_byte(platform: str) -> float:
    """How many FLOPs of products a platform does in the time in which it moves a byte to or from memory.

    It is 0 for a CPU, which computes slowly, and whose caches hold much of what a layer makes.

    >>> round(flops_per_byte("tpu")), flops_per_byte("cpu")
    (241, 0.0)
    """
    device = _TYPICAL.get(platform)
    return device.products["bfloat16"] / device.bandwidth if device else 0.0
