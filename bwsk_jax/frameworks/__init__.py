"""Siblings of what Flax, Equinox and Haiku have in place of `jax.checkpoint` and `jax.lax.scan`.

In these frameworks a call of a module also changes state, draws keys or makes parameters. Their own
transformations take such a call apart into a function of arrays, transform that, and put together what comes
back. So do these, with `bwsk_jax.reversible` and `bwsk_jax.reversible_scan` inside:

| module | of | has |
| --- | --- | --- |
| `linen` | `flax.linen` | `reversible`, `reversible_scan`, `reversible_remat_scan` |
| `nnx` | `flax.nnx` | `reversible`, `reversible_scan` |
| `equinox` | `equinox` | `reversible`, `reversible_scan` |
| `haiku` | `haiku` | `reversible`, `reversible_scan`, `reversible_layer_stack` |

Each is named like the engine's function and computes what the framework's own computes, with the same
parameters, keys and state. It takes the arguments of the framework's own by their names, beside the limits of
the engine. Outside `jax.jit` each call is traced anew, as it is by theirs. A module here is imported when it
is first used, and its framework with it.
"""

import importlib
from typing import Any

_MODULES = ("equinox", "haiku", "linen", "nnx")


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
