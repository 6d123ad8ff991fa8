"""Where the strict and the reference taxonomy disagree, and why."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from bwsk_jax import Report

__all__ = ["Difference", "differences", "explanation"]


@dataclass(frozen=True)
class Difference:
    """A leaf module that one taxonomy calls S and the other K.

    `primitive` and `why` describe the line of the module that explains the difference best (see `_weight`);
    `why` is the strict taxonomy's reason.
    """

    module: str
    repeats: int
    strict: str
    reference: str
    primitive: str
    why: str

    def __str__(self) -> str:
        times = f" x {self.repeats}" if self.repeats > 1 else ""
        return f"{self.module}{times} ({self.primitive}: {self.why})"


def differences(strict: Report, reference: Report) -> list[Difference]:
    """Return the leaf modules on which two reports of one function disagree, the most frequent first."""
    found = []
    for ours, theirs in zip(strict.modules, reference.modules, strict=True):
        if not ours.leaf or ours.kind == theirs.kind:
            continue
        weight = functools.partial(_weight, strict, reference, strict if ours.kind == "K" else reference)
        line = strict.lines[max(ours.lines, key=weight)]
        found.append(
            Difference(ours.name, ours.repeats, ours.kind, theirs.kind, line.primitive, line.why),
        )
    return sorted(found, key=lambda difference: -difference.repeats)


def _weight(strict: Report, reference: Report, erasing: Report, number: int) -> tuple[bool, bool, int]:
    """How well a line explains why its module is K in the report `erasing`, and S in the other one.

    A line that is K there explains it better than one that is not; then a line on which the reports disagree;
    then a line that reads more bytes.
    """
    return (
        _kind(erasing, number) == "K",
        _kind(strict, number) != _kind(reference, number),
        strict.lines[number].bytes_in,
    )


def _kind(report: Report, line: int) -> str:
    return report.lines[line].kind.removeprefix("~")


def explanation(strict: Report, reference: Report) -> str:
    """Return one or two sentences on where the taxonomies disagree; "" if there are no modules to count."""
    total = sum(strict.leaf_modules.values())
    if total == 0:
        return ""
    found = differences(strict, reference)
    if not found:
        return f"The taxonomies agree on all {total} leaf modules."
    groups = (
        ("strictly K, and S in the reference, which goes by the kind of module", "K"),
        ("strictly S, and K in the reference, which goes by the kind of module", "S"),
    )
    said = []
    for meaning, kind in groups:
        members = [difference for difference in found if difference.strict == kind]
        if members:
            count = sum(difference.repeats for difference in members)
            said.append(f"{count} of {total} leaf modules are {meaning}: {', '.join(map(str, members))}.")
    return " ".join(said)
