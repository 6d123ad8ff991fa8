"""GPUs as XLA's compiler has to be told of them, in the text form of its `GpuTargetConfigProto`.

The figures are those that CUDA reports of the device; XLA's own descriptions, in its folder
xla/tools/hlo_opt/gpu_specs, have the same.
"""

from bwsk_jax.engine.rules.devices import DEVICES

__all__ = ["DESCRIPTIONS"]

_OF_BOTH = {
    "threads_per_block_limit": 1024,
    "threads_per_warp": 32,
    "shared_memory_per_block": 49152,
    "threads_per_core_limit": 2048,
    "block_dim_limit_x": 2**31 - 1,
    "block_dim_limit_y": 2**16 - 1,
    "block_dim_limit_z": 2**16 - 1,
    "registers_per_core_limit": 65536,
    "registers_per_block_limit": 65536,
}
_OF_EACH = {
    "a100": {
        "shared_memory_per_core": 167936,
        "core_count": 108,
        "fpus_per_core": 64,
        "memory_bandwidth": 2_039_040_000_000,
        "l2_cache_size": 40 * 2**20,
        "clock_rate_ghz": 1.41,
        "shared_memory_per_block_optin": 166912,
    },
    "h100": {
        "shared_memory_per_core": 233472,
        "core_count": 132,
        "fpus_per_core": 128,
        "memory_bandwidth": 3_352_320_000_000,
        "l2_cache_size": 50 * 2**20,
        "clock_rate_ghz": 1.98,
        "shared_memory_per_block_optin": 232448,
    },
}
_CAPABILITY = {"a100": 8, "h100": 9}
_NAMES = {"a100": "NVIDIA A100-SXM4-80GB", "h100": "NVIDIA H100 80GB HBM3"}


def _described(name: str) -> str:
    figures = {**_OF_BOTH, **_OF_EACH[name], "device_memory_size": DEVICES[name].memory}
    lines = "".join(f"  {field}: {value}\n" for field, value in figures.items())
    return (
        f"gpu_device_info {{\n{lines}  cuda_compute_capability {{ major: {_CAPABILITY[name]} }}\n}}\n"
        'platform_name: "CUDA"\n'
        "dnn_version_info { major: 9 minor: 7 }\n"
        "runtime_version { major: 12 minor: 8 patch: 0 }\n"
        f'device_description_str: "{_NAMES[name]}"\n'
    )


DESCRIPTIONS = {name: _described(name) for name in _OF_EACH}
"""By the name of the device."""
