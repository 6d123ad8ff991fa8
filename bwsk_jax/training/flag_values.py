"""What each flag may be, wherever it is given: its type and its range."""

import difflib
import math
import typing
from typing import Any

from bwsk_jax.training.options import CHOICES, Options
from bwsk_jax.variants import UnknownVariantError, find_variant

POSITIVE = ("seq_len", "batch_size", "grad_accum", "epochs", "max_steps", "lr", "max_bytes")
FINITE = ("lr",)
NOT_NEGATIVE = ("max_overhead", "save_every", "seed")
# JAX takes a seed as a signed integer of 64 bits.
LIMITS = {"seed": 2**63}
TYPES = {name: typing.get_args(hint) or (hint,) for name, hint in typing.get_type_hints(Options).items()}
TYPE_NAMES = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}


class FlagError(ValueError):
    """A flag, or an entry of a file of flags, that cannot be used."""


def type_fault(name: str, value: Any) -> str | None:
    """Return what flag `name` is expected to be if JSON's `value` has another type.

    >>> type_fault("epochs", 3), type_fault("lr", 1), type_fault("epochs", "3")
    (None, None, 'must be an integer or null')
    """
    kinds = TYPES[name]
    if type(value) in kinds or (float in kinds and type(value) is int):
        return None
    return f"must be {' or '.join(TYPE_NAMES[kind] for kind in kinds)}"


def value_fault(name: str, value: Any) -> str | None:
    """Return what is expected of flag `name` if `value`, which has its type, is out of range.

    >>> value_fault("preset", "dem")
    "is not one of demo, mini, base: did you mean 'demo'?"
    >>> value_fault("lr", -1.0), value_fault("lr", None)
    ('must be positive', None)
    """
    if value is None:
        return None
    if name in CHOICES and value not in CHOICES[name]:
        return f"is not one of {', '.join(CHOICES[name])}: did you mean {nearest(value, CHOICES[name])!r}?"
    if name in POSITIVE and not value > 0:
        return "must be positive"
    if name in FINITE and not math.isfinite(value):
        return "must be finite"
    if name in NOT_NEGATIVE and not value >= 0:
        return "must not be negative"
    if name in LIMITS and not value < LIMITS[name]:
        return f"must be less than {LIMITS[name]}"
    if name == "variant":
        try:
            find_variant(value)
        except UnknownVariantError as unknown:
            return f"is no variant: {unknown}"
    return None


def nearest(name: str, names) -> str:
    """Return the one of `names` that is spelt most like `name`."""
    (closest,) = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
    return closest
