"""Test whether an equation needs a meeting, by changing one shard of its operands.

An equation is *free* along a mesh axis if each shard of its results depends only on the same shard of its
operands. Each device can then compute its shard without a word from the others. Let one shard of the operands
change. If another shard of the results changes with it, the equation is not free: as its values are split, no
compiler can run it without a message along this axis. The converse is a test and no proof, for the change may
not show for the values that were drawn.

How the values are split is read off Shardy's propagation. Neither its collectives nor a compiler take part in
the answer, so that a prediction can fail this test in both directions.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from bwsk_jax.coordination.equations import NumberedEquation
from bwsk_jax.coordination.layouts import Layouts, layouts
from bwsk_jax.coordination.meetings import Meeting
from bwsk_jax.coordination.shardings import Sharding
from bwsk_jax.engine.program.jaxprs import Equation, subprograms
from bwsk_jax.engine.program.types import is_key

__all__ = ["Pair", "Proof", "prove"]


@dataclasses.dataclass(frozen=True)
class Pair:
    """An equation and a mesh axis: whether it needs a meeting along it, and whether one was predicted.

    `needed` is None if the pair was skipped, because the layout of a value is not known or the equation
    cannot be evaluated by itself.
    """

    equation: int
    primitive: str
    axis: str
    needed: bool | None
    predicted: bool


@dataclasses.dataclass(frozen=True)
class Proof:
    """What the interference test found, for each equation and each mesh axis.

    Left out are equations inside a `shard_map`, where the program says itself what is sent, and those of
    which the lowered program has nothing left, since they were constant or unused.
    """

    pairs: tuple[Pair, ...]

    @property
    def missed(self) -> tuple[Pair, ...]:
        """Pairs that need a meeting that was not predicted."""
        return tuple(pair for pair in self.pairs if pair.needed and not pair.predicted)

    @property
    def unneeded(self) -> tuple[Pair, ...]:
        """Pairs with a predicted meeting for which no dependence was seen."""
        return tuple(pair for pair in self.pairs if pair.needed is False and pair.predicted)

    @property
    def skipped(self) -> tuple[Pair, ...]:
        """Pairs that were not tested."""
        return tuple(pair for pair in self.pairs if pair.needed is None)

    def __str__(self) -> str:
        count = Counter((pair.needed, pair.predicted) for pair in self.pairs)
        parts = [f"{count[False, False]} free", f"{count[True, True]} needs a meeting and has one"]
        if self.missed:
            parts.append(f"{len(self.missed)} needs one and has none")
        if self.unneeded:
            parts.append(f"{len(self.unneeded)} has one though no dependence was seen")
        skipped = f"{len(self.skipped)} skipped"
        return f"{len(self.pairs)} pairs of equation and mesh axis: {', '.join(parts)}; {skipped}"


def prove(
    module: Any,
    equations: dict[int, NumberedEquation],
    meetings: Sequence[Meeting],
    sizes: dict[str, int],
    seed: int = 0,
) -> Proof:
    """Test the equations that are no loops, conditionals or calls, along each mesh axis."""
    found = layouts(module)
    needs: dict[tuple[int, str], bool | None] = {}
    for number, described in equations.items():
        if described.is_composed or described.is_manual or number not in found:
            continue
        test = _Test(described.equation, found[number], sizes, seed)
        needs |= {(number, axis): test.interferes(axis) for axis in sizes}
    predicted = {pair for meeting in meetings for pair in _served(meeting, needs)}
    return Proof(
        tuple(
            Pair(number, equations[number].primitive, axis, needed, (number, axis) in predicted)
            for (number, axis), needed in needs.items()
        )
    )


def _served(meeting: Meeting, needs: dict[Any, bool | None]) -> Iterator[tuple[Any, str]]:
    """The pairs that a meeting is for.

    A sum is for the equation that makes it. A relayout is for those of its readers that need it, and for the
    equation that makes what is laid out if it does, since it may lie otherwise than it was made; for all
    readers if none does. A result of the whole function has no reader, but the equation that makes it.
    """
    for axis in meeting.axes:
        readers = [(number, axis) for number in meeting.readers or (meeting.equation,)]
        needing = [pair for pair in (*readers, (meeting.maker, axis)) if needs.get(pair)]
        yield from (needing or readers) if meeting.why == "relayout" else [(meeting.equation, axis)]


class _Test:
    """One equation, its operands drawn at random, and how its values are split."""

    def __init__(self, equation: Equation, layouts: Layouts, sizes: dict[str, int], seed: int):
        self.equation, self.sizes = equation, sizes
        self.generator = np.random.default_rng(seed)
        shapes = lambda avals: [tuple(aval.shape) for aval in avals]
        self.operands = layouts.of_operands(shapes(equation.in_avals))
        self.results = layouts.of_results(shapes(equation.out_avals))
        for place, atom in enumerate(equation.inputs):
            if isinstance(atom, Literal):
                self.operands[place] = ((),) * len(equation.in_avals[place].shape)

    def interferes(self, axis: str) -> bool | None:
        """Whether a change of one shard of the operands along `axis` changes another of the results.

        Of an equation with equations inside that is judged as a whole, such as a linear solve, the layouts
        are those of its parts.
        """
        if any(True for _ in subprograms(self.equation)):
            return None
        if any(sharding is None for sharding in self.operands):
            return None
        if not any(axis in axes for sharding in self.operands for axes in sharding or ()):
            return False
        if any(sharding is None for sharding in self.results):
            return None
        try:
            return self.changes_another(axis)
        except _CannotEvaluate:
            return None

    def changes_another(self, axis: str) -> bool:
        operands, others = self.draw(), self.draw()
        before = self.evaluate(operands)
        for shard in range(self.sizes[axis]):
            changed = [
                operand
                if (mask := _mask(operand.shape, sharding or (), self.sizes, axis, shard)) is None
                else np.where(mask, other, operand)
                for operand, other, sharding in zip(operands, others, self.operands, strict=True)
            ]
            after = self.evaluate(changed)
            for old, new, sharding in zip(before, after, self.results, strict=True):
                differs = ~_equal(old, new)
                mask = _mask(old.shape, sharding or (), self.sizes, axis, shard)
                if (differs if mask is None else differs & ~mask).any():
                    return True
        return False

    def evaluate(self, operands: Sequence[np.ndarray]) -> list[np.ndarray]:
        try:
            results = self.equation.bind([jnp.asarray(operand) for operand in operands])
        except (NameError, NotImplementedError, TypeError, ValueError) as error:
            raise _CannotEvaluate from error
        return [np.asarray(result) for result in results]

    def draw(self) -> list[np.ndarray]:
        """Values for the operands; integers are small, so that they can be places in an array."""
        drawn: dict[Any, np.ndarray] = {}
        for atom, aval in zip(self.equation.inputs, self.equation.in_avals, strict=True):
            if isinstance(atom, Literal):
                drawn[id(atom)] = np.asarray(atom.val, aval.dtype)
            elif atom not in drawn:
                drawn[atom] = self.one(aval)
        return [drawn[id(atom) if isinstance(atom, Literal) else atom] for atom in self.equation.inputs]

    def one(self, aval: Any) -> np.ndarray:
        if is_key(aval):
            raise _CannotEvaluate
        if aval.dtype == bool:
            return self.generator.integers(0, 2, aval.shape).astype(bool)
        if jnp.issubdtype(aval.dtype, jnp.integer):
            return self.generator.integers(0, 3, aval.shape).astype(aval.dtype)
        return self.generator.uniform(0.5, 1.5, aval.shape).astype(aval.dtype)


class _CannotEvaluate(Exception):
    """The equation does not run by itself on drawn values."""


def _equal(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    return (old == new) | ((old != old) & (new != new))


def _mask(
    shape: Sequence[int], sharding: Sharding, sizes: dict[str, int], axis: str, shard: int
) -> np.ndarray | None:
    """The elements that one shard along `axis` has; None if the value is not split along it."""
    for dimension, axes in enumerate(sharding):
        if axis not in axes:
            continue
        counts = [sizes[name] for name in axes]
        part = -(-shape[dimension] // math.prod(counts))
        place = np.unravel_index(np.arange(shape[dimension]) // part, counts)[axes.index(axis)]
        here = place == shard
        others = [1] * len(shape)
        others[dimension] = -1
        return np.broadcast_to(here.reshape(others), shape)
    return None
