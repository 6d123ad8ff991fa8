"""What `calm` finds, as data, as text and as JSON."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from bwsk_jax.classification.report import Report
from bwsk_jax.coordination.compiled import compiled_collectives
from bwsk_jax.coordination.deferral import Deferral
from bwsk_jax.coordination.differences import Comparison, compare
from bwsk_jax.coordination.equations import NumberedEquation
from bwsk_jax.coordination.interference import Proof, prove
from bwsk_jax.coordination.meetings import Meeting, bytes_per_axis
from bwsk_jax.coordination.phases import Phase

__all__ = ["SCHEMA", "CalmReport"]

SCHEMA = 1
"""Version of the JSON; it changes when a key is renamed, removed or given another meaning."""


@dataclasses.dataclass(frozen=True, eq=False)
class CalmReport:
    """Where the devices of a program meet. `str()` is a table, `to_json()` the same for machines.

    Attributes:
      mesh: the sizes of the mesh axes.
      meetings: the predicted meetings, in the order of the program.
      deferrable: the sums that could meet later, and so less often or for fewer bytes.
      phases: runs of equations without meetings in between.
      critical_path: the largest number of meetings in a row, each of which waits for the one before.
      equations: what is known of each equation, by number.
      module: the lowered program, which `prove` partitions again.
      classify_by_reference: classifies the function by the count of the PyTorch reference.
    """

    mesh: dict[str, int]
    meetings: tuple[Meeting, ...]
    deferrable: tuple[Deferral, ...]
    phases: tuple[Phase, ...]
    critical_path: int
    equations: dict[int, NumberedEquation] = dataclasses.field(repr=False)
    module: Any = dataclasses.field(repr=False)
    classify_by_reference: Callable[[], Report] = dataclasses.field(repr=False)

    @property
    def bytes_per_axis(self) -> dict[str, int]:
        """The bytes that one device sends in a run, by mesh axes; "+" joins axes that meet together."""
        return bytes_per_axis(self.meetings)

    @functools.cached_property
    def reference_modules(self) -> dict[str, int]:
        """How many leaf modules are S and how many K by the reference's count, which knows no mesh."""
        return self.classify_by_reference().leaf_modules

    @property
    def reference_ratio(self) -> float | None:
        """The share of S among the leaf modules by the reference's count; None without modules.

        It is a property of the model alone, the same on every mesh. It predicts no meeting.
        """
        total = sum(self.reference_modules.values())
        return self.reference_modules["S"] / total if total else None

    @functools.cached_property
    def times(self) -> int:
        """How many meetings a run comes to."""
        return sum(meeting.times for meeting in self.meetings)

    def check(self, compiled: Any) -> Comparison:
        """Compare the prediction with a compiled program, and name the reason of each difference.

        Args:
          compiled: what `jax.jit(...).lower(...).compile()` or `bwsk_jax.compile_for` returns for the same
            function, shapes and specs; or the text of such a program in HLO.

        >>> import bwsk_jax, jax, jax.numpy as jnp
        >>> from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
        >>> mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
        >>> x = jax.ShapeDtypeStruct((8, 4), jnp.float32, sharding=NamedSharding(mesh, P("data")))
        >>> report = bwsk_jax.calm(jnp.tanh, x, mesh=mesh, in_specs=(P("data"),))
        >>> print(report.check(jax.jit(jnp.tanh).lower(x).compile()))
        equal: 0 meetings predicted, 0 compiled
        """
        return compare(self.meetings, compiled_collectives(compiled, self.mesh))

    def prove(self, seed: int = 0) -> Proof:
        """Test equation by equation whether a meeting is needed, by changing one shard of its operands.

        Where the values of an equation are split is taken from Shardy's propagation, and no compiler takes
        part in the answer. See `bwsk_jax.coordination.interference` for what follows from it.

        >>> import bwsk_jax, jax, jax.numpy as jnp
        >>> from jax.sharding import AbstractMesh, PartitionSpec as P
        >>> x, mesh = jax.ShapeDtypeStruct((8, 4), jnp.float32), AbstractMesh((4,), ("data",))
        >>> report = bwsk_jax.calm(lambda x: jnp.exp(x).sum(), x, mesh=mesh, in_specs=(P("data"),))
        >>> print(report.prove())
        2 pairs of equation and mesh axis: 1 free, 1 needs a meeting and has one; 0 skipped
        """
        return prove(self.module, self.equations, self.meetings, self.mesh, seed)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain lists and dictionaries."""
        return {
            "schema": SCHEMA,
            "mesh": self.mesh,
            "meetings": [dataclasses.asdict(m) | {"wire": m.wire} for m in self.meetings],
            "deferrable": list(map(dataclasses.asdict, self.deferrable)),
            "phases": list(map(dataclasses.asdict, self.phases)),
            "critical_path": self.critical_path,
            "bytes_per_axis": self.bytes_per_axis,
            "reference_modules": self.reference_modules,
        }

    def to_json(self) -> str:
        """The report as JSON."""
        return json.dumps(self.to_dict())

    def summary(self) -> str:
        """Counts, bytes, the critical path and what could meet later, without the meetings."""
        mesh = ", ".join(f"{name}={size}" for name, size in self.mesh.items())
        kinds: Counter[str] = Counter()
        for meeting in self.meetings:
            kinds[f"{meeting.kind} over {'+'.join(meeting.axes)}"] += meeting.times
        counted = ", ".join(f"{times:,} {kind}" for kind, times in sorted(kinds.items()))
        sent = ", ".join(f"{size:,} over {axes}" for axes, size in self.bytes_per_axis.items())
        lines = [
            f"mesh {mesh}: {self.times:,} meetings, {self.critical_path:,} in a row on the critical path"
            + (f"; {counted}" if counted else ""),
            f"bytes that one device sends: {sent or 'none'}",
        ]
        lines += map(self._deferred, self.deferrable)
        if self.reference_ratio is not None:
            lines.append(
                f"for comparison, the reference counts {self.reference_ratio:.1%} of leaf modules as S: a "
                "ratio of kinds of modules, the same on every mesh, which predicts none of these meetings"
            )
        return "\n".join(lines)

    def _deferred(self, deferral: Deferral) -> str:
        sums, at = (
            ", ".join(dict.fromkeys(self._name(number) for number in numbers))
            for numbers in ((self.meetings[n].equation for n in deferral.meetings), deferral.equations)
        )
        times = f"{deferral.times_deferred:,} in place of {deferral.times:,} meetings"
        return (
            f"could meet later: the sums at {sums} at {at}: {times}, "
            f"{deferral.wire_deferred:,} in place of {deferral.wire:,} bytes"
        )

    def _name(self, number: int | None) -> str:
        return "a result" if number is None else f"{number} {self.equations[number].primitive}"

    def __str__(self) -> str:
        if not self.meetings:
            return self.summary()
        head = ("kind", "axes", "bytes", "wire", "times", "depth", "equation", "", "why", "module", "source")
        return f"{self.summary()}\n\n{_table([head, *map(_row, self.meetings)])}"


def _row(meeting: Meeting) -> Sequence[str]:
    return (
        meeting.kind,
        "+".join(meeting.axes),
        f"{meeting.bytes:,}",
        f"{meeting.wire:,.0f}",
        f"{meeting.times:,}",
        f"{meeting.depth:,}",
        "a result" if meeting.equation is None else f"{meeting.equation} {meeting.primitive}",
        meeting.letter,
        meeting.why,
        meeting.module,
        meeting.source,
    )


def _table(rows: Iterable[Sequence[str]]) -> str:
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
