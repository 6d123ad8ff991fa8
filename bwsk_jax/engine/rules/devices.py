"""What devices compute and move per second, as data: what prices in time follow from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

__all__ = ["DEVICES", "FLOPS", "Device", "Prices", "device_of", "prices_of"]


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


@dataclasses.dataclass(frozen=True)
class Prices:
    """How many FLOPs of products a device does in the time of something else."""

    moved_byte: float = 0.0
    """Of moving a byte to or from memory."""
    sent_byte: float = 0.0
    """Of sending a byte to another device."""
    arithmetic: float = 1.0
    """Of a FLOP of a convolution that sums over no features, which multiplies no matrices."""


FLOPS = Prices()
"""Nothing but FLOPs counts."""
_TYPICAL = {"tpu": DEVICES["v5e"], "gpu": DEVICES["h100"]}
_SENT_BYTE = 500.0
"""That of a TPU v5e. It is more on a GPU."""


def device_of(kind: str) -> Device | None:
    """The device whose `jax.Device.device_kind` this is, or None.

    >>> [device_of(kind).name for kind in ("TPU v5", "TPU v5 lite", "NVIDIA H100 80GB HBM3")]
    ['v5p', 'v5e', 'h100']
    """
    known = (device for device in DEVICES.values() if kind.startswith(device.kind))
    return max(known, key=lambda device: len(device.kind), default=None)


def prices_of(platform: str, kind: str = "") -> Prices:
    """The prices of a kind of device, or those that are typical of a platform.

    To move a byte costs nothing on a CPU, which computes slowly, and whose caches hold much of what a layer
    makes.

    >>> prices_of("cpu")
    Prices(moved_byte=0.0, sent_byte=500.0, arithmetic=1.0)
    >>> round(prices_of("tpu").moved_byte), round(prices_of("tpu", "TPU v6 lite").moved_byte)
    (241, 560)
    """
    device = device_of(kind) or _TYPICAL.get(platform)
    if device is None:
        return Prices(sent_byte=_SENT_BYTE)
    products = device.products["bfloat16"]
    return Prices(products / device.bandwidth, _SENT_BYTE, products / device.arithmetic)
