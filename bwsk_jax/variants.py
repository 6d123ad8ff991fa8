"""The six variants, {finetune, scratch} x {conventional, analyzed, reversible}, as a table.

All six compute the same function of the same parameter tree. The experiment decides where the parameters
start: from a given model, or from random numbers. The mode decides how the encoder scans over its layers, and
what the results report.
"""

import difflib
from dataclasses import dataclass

from bwsk_jax.errors import UserError


class UnknownVariantError(UserError):
    """The name is no variant's, in either spelling."""


@dataclass(frozen=True)
class Variant:
    """One row of the table. `name` is what users type, `mode` is how the results files spell the mode."""

    name: str
    experiment: str
    mode: str
    plans: bool
    """Whether an encoder layer is planned and classified, and the results report it."""
    inverts: bool
    """Whether the encoder scans with `bwsk_jax.reversible_scan` instead of `jax.lax.scan`."""

    @property
    def reference_name(self) -> str:
        """The name under which the published reference results list the variant."""
        return f"{self.experiment}-{self.mode.replace('_', '-')}"


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("finetune-conventional", "finetune", "conventional", plans=False, inverts=False),
        Variant("finetune-analyzed", "finetune", "bwsk_analyzed", plans=True, inverts=False),
        Variant("finetune-reversible", "finetune", "bwsk_reversible", plans=True, inverts=True),
        Variant("scratch-conventional", "scratch", "conventional", plans=False, inverts=False),
        Variant("scratch-analyzed", "scratch", "bwsk_analyzed", plans=True, inverts=False),
        Variant("scratch-reversible", "scratch", "bwsk_reversible", plans=True, inverts=True),
    )
}


def find_variant(name: str) -> Variant:
    """Return the variant called `name`, which may also be the name that the reference gives it.

    Raises `UnknownVariantError`, which proposes the name that is spelt most like it.

    >>> find_variant("scratch-bwsk-reversible").name
    'scratch-reversible'
    """
    by_name = VARIANTS | {variant.reference_name: variant for variant in VARIANTS.values()}
    if name in by_name:
        return by_name[name]
    (nearest,) = difflib.get_close_matches(name, by_name, n=1, cutoff=0.0)
    raise UnknownVariantError(
        f"unknown variant {name!r}: did you mean {nearest!r}? (one of {', '.join(VARIANTS)})"
    )
