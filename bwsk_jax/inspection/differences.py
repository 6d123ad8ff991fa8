"""Where the strict and the reference taxonomy part, and why."""

from __future__ import annotations

from dataclasses import dataclass

from bwsk_jax import Report

__all__ = ["Difference", "differences", "explanation"]


@dataclass(frozen=True)
class Difference:
    """A leaf module that one taxonomy calls S and the other K.

    `primitive` and `why` are of the strict line that tells most about it: one that the K side calls K, one
    on which they disagree if there is any, and of these the one that reads most bytes.
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
    """The leaf modules that two reports on the same function do not agree on, the most frequent first."""
    found = []
    for ours, theirs in zip(strict.modules, reference.modules, strict=True):
        if not ours.leaf or ours.kind == theirs.kind:
            continue
        erasing = strict if ours.kind == "K" else reference
        weight = lambda n: (
            _kind(erasing, n) == "K",
            _kind(strict, n) != _kind(reference, n),
            strict.lines[n].bytes_in,
        )
        line = strict.lines[max(ours.lines, key=weight)]
        found.append(
            Difference(ours.name, ours.repeats, ours.kind, theirs.kind, line.primitive, line.why),
        )
    return sorted(found, key=lambda difference: -difference.repeats)


def _kind(report: Report, line: int) -> str:
    return report.lines[line].kind.removeprefix("~")


def explanation(strict: Report, reference: Report) -> str:
    """One or two sentences on where the taxonomies differ; empty where there are no modules to count."""
    total = sum(strict.leaf_modules.values())
    if total == 0:
        return ""
    found = differences(strict, reference)
    if not found:
        return f"The taxonomies agree on all {total} leaf modules."
    groups = (
        ("strictly K, and S in the reference, where only dropout and activations erase", "K"),
        ("strictly S, and K in the reference, where every dropout and activation erases", "S"),
    )
    said = []
    for meaning, kind in groups:
        members = [difference for difference in found if difference.strict == kind]
        if members:
            count = sum(difference.repeats for difference in members)
            said.append(f"{count} of {total} leaf modules are {meaning}: {', '.join(map(str, members))}.")
    return " ".join(said)
