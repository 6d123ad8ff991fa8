"""The derivation graph: which values a backward pass has, which it needs, and every step from one to another.

It has a node for each value. Each equation gives a *replay*, from its inputs to its outputs, and for each
operand that the rules can solve for an *inversion*, from its outputs and other operands to that operand.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jax.extend.core import Literal
from jax.extend.core import primitives as p

from bwsk_jax.engine.program.bits import kept_nbytes
from bwsk_jax.engine.program.jaxprs import Equation, Program
from bwsk_jax.engine.program.platform import device
from bwsk_jax.engine.program.scan_body import ScanBody
from bwsk_jax.engine.program.types import digits, harmless_amplification, nbytes
from bwsk_jax.engine.program.vjp import VjpTrace, split
from bwsk_jax.engine.rules import costs, exactness
from bwsk_jax.engine.rules.devices import Prices, prices_of
from bwsk_jax.engine.rules.exactness import Grade, Taint
from bwsk_jax.engine.rules.intervals import ANY, Bounds, IntervalOf, bounds_of
from bwsk_jax.engine.rules.inverses import Inverse
from bwsk_jax.engine.rules.registry import inverses_of

__all__ = ["Problem", "Step", "call_problem", "scan_problem", "scan_problems"]


@dataclasses.dataclass(frozen=True)
class Step:
    """Run an equation forward, or solve it for one operand.

    Attributes:
      equation: its number in the program.
      operand: the place of the operand that is solved for, None for a replay.
      reads: the values that must be known before.
      writes: the values that are known after.
      cost: in FLOPs; see `costs.inversion_cost` for those of an inversion.
      grade: of the inverse, None for a replay.
      amplification: of the inverse: see `Inverse`.
      conditional: whether some data leave nothing of what a `ROUNDED` inverse gives, as a scale does that
        underflows to 0.
    """

    equation: int
    operand: int | None
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    cost: float
    grade: Grade | None = None
    amplification: float = 1.0
    conditional: bool = False

    @property
    def inverts(self) -> bool:
        """Whether it goes from outputs to an operand."""
        return self.operand is not None

    @property
    def exact(self) -> bool:
        """Whether it gives bit for bit what the forward pass computed, as far as its operands are that."""
        return not self.brings_in

    @property
    def brings_in(self) -> frozenset[Taint]:
        """The inexactness of its result where all that it reads is exact."""
        return frozenset() if self.grade is None else self.grade.brings_in

    @property
    def data_dependent(self) -> bool:
        """Whether the data decide if its result is off by more than rounding."""
        return self.grade in (Grade.ROUNDED, Grade.GUARDED)


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """What a plan has to achieve.

    Attributes:
      program: the function and its VJP.
      bounds: what is known of its values before they are computed.
      available: the values that the backward pass has anyway, at no cost.
      targets: the values that it needs.
      steps: every replay and inversion that could help, in the order of the equations.
      free_steps: for each value that has one, a step of no cost from available values alone.
      handed: the places of the leaves of a scan's carry that an iteration on the way back gets from the one
        before it and gives to the next; None for a call.
      carry_in: the targets that the next iteration of a reverse scan starts from.
      recurrence: for each leaf that is handed on, what goes out and what came in. What goes out is available
        because the iteration after it recovered it, so it is as inexact as what comes in is recovered.
      forbidden: for each kind of inexactness, the values that must not have it.
      parameter_only: values that depend on no activation, such as dropout masks and cast weights; they are
        replayed, never inverted.
      residuals: the values that plain autodiff would keep.
      forward_cost: FLOPs of one evaluation of the function.
      traffic: FLOPs that take as long as it takes to save a byte and to read it again.
      length: iterations between two values that are known exactly.
    """

    program: Program
    bounds: Bounds
    available: frozenset[int]
    targets: tuple[int, ...]
    steps: tuple[Step, ...]
    free_steps: dict[int, Step]
    handed: tuple[int, ...] | None
    carry_in: tuple[int, ...]
    recurrence: tuple[tuple[int, int], ...]
    forbidden: dict[Taint, frozenset[int]]
    parameter_only: frozenset[int]
    residuals: tuple[int, ...]
    forward_cost: float
    traffic: float
    length: int

    @functools.cached_property
    def bytes(self) -> dict[int, int]:
        """Bytes of each value where it is saved; booleans are saved as bits."""
        return {v: kept_nbytes(aval) for v, aval in enumerate(self.program.avals)}

    @functools.cached_property
    def at_hand(self) -> frozenset[int]:
        """The values that the backward pass has, or gets, at no cost."""
        return self.available.union(self.free_steps)

    @functools.cached_property
    def named(self) -> dict[str, frozenset[int]]:
        """The values that `jax.ad_checkpoint.checkpoint_name` has given each name, before they had it."""
        found: dict[str, set[int]] = {}
        for equation in self.program.equations:
            if equation.primitive is p.name_p:
                found.setdefault(equation.params["name"], set()).update(equation.reads)
        return {name: frozenset(values) for name, values in found.items()}

    def forms_of(self, values: Iterable[int]) -> frozenset[int]:
        """The values, and all that replays of no cost make of them, such as transposes and casts."""
        forms = set(values)
        for step in self.steps:
            if not step.inverts and not step.cost and forms.issuperset(step.reads):
                forms.update(step.writes)
        return frozenset(forms)

    @property
    def residual_bytes(self) -> int:
        """Bytes that plain autodiff keeps."""
        return sum(nbytes(self.program.avals[v]) for v in self.residuals)

    def fingerprint(self) -> tuple:
        """Equal for two problems exactly when a plan for one is a plan for the other."""
        forbidden = (self.forbidden[taint] for taint in Taint)
        sets = (self.available, self.targets, self.carry_in, self.recurrence, self.residuals, *forbidden)
        return (self.program.fingerprint(), *sets, self.steps, self.forward_cost, self.traffic, self.length)

    def time(self, steps: Iterable[Step], saved: Iterable[int] = ()) -> float:
        """What the steps take, and what it takes to save values and read them again, as a fraction of one
        forward and backward pass (three times the forward's FLOPs)."""
        moving = self.traffic * sum(self.bytes[v] for v in saved)
        return (sum(s.cost for s in steps) + moving) / max(3 * self.forward_cost, 1.0)

    def without(self, unwanted: Callable[[Step], bool]) -> Problem:
        """The same problem with fewer ways to solve it."""
        return dataclasses.replace(self, steps=tuple(s for s in self.steps if not unwanted(s)))

    def exact_reads(self, taint: Taint, step: Step) -> tuple[int, ...]:
        """The values that the step must not read with this kind of inexactness."""
        return _exact_reads(taint, self.program, step, self.bounds.of)

    def carriers(self, taint: Taint, step: Step, result: int) -> list[int]:
        """The values that the step reads and from which inexactness of this kind would reach its `result`."""
        equation, avals = self.program.equations[step.equation], self.program.avals
        return exactness.carriers(taint, equation, step.reads, result, avals, inverts=step.inverts)


# --- making problems ---------------------------------------------------------------------------------------


def call_problem(trace: VjpTrace, *, invert: bool = True) -> Problem:
    """The problem of a call: its arguments are available in the backward pass, its residuals are needed."""
    inputs = trace.program.inputs
    _, parameters = split(trace.varied_inputs, inputs)
    return _problem(trace, inputs, _Carry(None, (), ()), parameters, 1, invert)


def scan_problems(scan: ScanBody, length: int = 1, *, invert: bool = True) -> tuple[Problem, ...]:
    """The problems that a plan for one iteration may solve, as `scan_problem` says: to hand on only what the
    derivative itself reads of the carry, or all of it.

    A sum that goes through a scan is read by nothing, and the position of a leapfrog step only to invert it.
    To have all of the carry is what inverses start from; without them it would be saved for nothing.
    """
    program = scan.vjp.program
    _, carry_in, _ = scan.split_inputs(program.inputs)
    same = {v: v for v in carry_in}  # by another name, or with its layout said
    for equation in program.equations:
        if equation.primitive in _ALIASES and equation.reads and equation.reads[0] in same:
            same[equation.outputs[0]] = same[equation.reads[0]]
    residuals = {same.get(v) for v in scan.vjp.residuals if not isinstance(v, Literal)}
    read = tuple(k for k, v in enumerate(carry_in) if v in residuals)
    every = tuple(range(len(carry_in)))
    return tuple(
        scan_problem(scan, length, invert=invert, handed=leaves) for leaves in dict.fromkeys((read, every))
    )


def scan_problem(
    scan: ScanBody, length: int = 1, *, invert: bool = True, handed: Iterable[int] | None = None
) -> Problem:
    """The problem of one iteration, of which `length` follow each other without a carry that is saved.

    The constants, `xs` and what is handed on of the carry that goes out are available; residuals and what is
    handed on of the carry that came in are needed. That is all of the carry where `handed` is None.
    """
    trace = scan.vjp
    consts, carry_in, x = scan.split_inputs(trace.program.inputs)
    places = tuple(range(len(carry_in)) if handed is None else handed)
    carry = _Carry(places, tuple(trace.outputs[k] for k in places), tuple(carry_in[k] for k in places))
    known = (*consts, *x, *(v for v in carry.outputs if not isinstance(v, Literal)))
    return _problem(trace, known, carry, (*consts, *x), length, invert)


_ALIASES = {p.name_p, p.sharding_constraint_p, p.copy_p}


class _Carry(NamedTuple):
    """The leaves of a carry that are handed on: their places, as they go out and as they came in."""

    places: tuple[int, ...] | None
    outputs: tuple[int | Literal, ...]
    inputs: tuple[int, ...]


def _problem(
    trace: VjpTrace,
    known: Iterable[int],
    carry: _Carry,
    parameters: Iterable[int],
    length: int,
    invert: bool,
) -> Problem:
    program = trace.program
    residuals = [v for v in trace.residuals if not isinstance(v, Literal)]
    available = frozenset((*known, *program.constants))
    parameter_only = _closure(program, (*parameters, *program.constants))
    constant = _closure(program, program.constants)
    shown = exactness.shown_digits(trace, carry.inputs)
    bounds = bounds_of(program)
    prices = prices_of(*device())
    inversions = list(_inversions(program, bounds, parameter_only, length, prices)) if invert else []
    inversions = [s for s in inversions if not _loses_digits(program, s, shown)]
    steps = [
        s
        for s in sorted((*_replays(program, constant, prices), *inversions), key=_place)
        if not available.issuperset(s.writes)
    ]
    free_steps = _free_steps(program, steps, available)
    targets = tuple(dict.fromkeys(v for v in (*residuals, *carry.inputs) if v not in available))
    return Problem(
        program=program,
        bounds=bounds,
        available=available,
        targets=targets,
        steps=tuple(_useful(steps, targets, available.union(free_steps))),
        free_steps=free_steps,
        handed=carry.places,
        carry_in=tuple(dict.fromkeys(v for v in carry.inputs if v not in available)),
        recurrence=tuple(
            (a, b)
            for a, b in zip(carry.outputs, carry.inputs, strict=True)
            if not isinstance(a, Literal) and a != b
        ),
        forbidden=_forbidden(trace, inversions, shown, bounds.of),
        parameter_only=parameter_only,
        residuals=tuple(dict.fromkeys(v for v in residuals if v not in available and v not in constant)),
        forward_cost=costs.forward_cost(program, trace.outputs, prices),
        traffic=2 * prices.moved_byte,
        length=length,
    )


def _place(step: Step) -> tuple[int, int]:
    """Sorts by equation; its replay comes before its inversions."""
    return step.equation, -1 if step.operand is None else step.operand


def _forbidden(
    trace: VjpTrace, inversions: Sequence[Step], shown: dict[int, int], interval_of: IntervalOf
) -> dict[Taint, frozenset[int]]:
    """The values that must not be inexact. Without inversions nothing is, and all may be."""
    if not inversions:
        return {taint: frozenset() for taint in Taint}
    bounds = bounds_of(trace.traced_pullback, map(interval_of, trace.residuals))
    forbidden = {taint: exactness.exact_residuals(taint, trace, bounds.of) for taint in Taint}
    narrow = (digits(trace.program.avals[s.reads[0]]) for s in inversions if s.grade is Grade.NARROWED)
    fewest = min(narrow, default=0)
    forbidden[Taint.LOW_PRECISION] |= {v for v, count in shown.items() if count > fewest}
    return forbidden


def _closure(program: Program, values: Iterable[int]) -> frozenset[int]:
    """All that can be computed from `values` and literals."""
    closed = set(values)
    for equation in program.equations:
        if closed.issuperset(equation.reads) and not equation.effects:
            closed.update(equation.outputs)
    return frozenset(closed)


def _replays(program: Program, constant: frozenset[int], prices: Prices) -> Iterator[Step]:
    for number, equation in enumerate(program.equations):
        if not equation.effects:
            cost = 0.0 if constant.issuperset(equation.outputs) else costs.cost(equation, prices)
            yield Step(number, None, tuple(dict.fromkeys(equation.reads)), equation.outputs, cost)


def _inversions(
    program: Program, bounds: Bounds, parameter_only: frozenset[int], length: int, prices: Prices
) -> Iterator[Step]:
    for number, equation in enumerate(program.equations):
        inverses = () if exactness.stops_derivatives(equation) else inverses_of(equation, bounds.of)
        for inverse in inverses:
            target = equation.inputs[inverse.operand]
            assert not isinstance(target, Literal), "no literal has an inverse"
            if target in parameter_only or _amplifies(program, target, inverse, length):
                continue
            if not _is_worth_trying(equation, inverse, parameter_only):
                continue
            reads = tuple(dict.fromkeys((*equation.outputs, *inverse.side_values(equation))))
            cost = costs.inversion_cost(equation, inverse.operand, inverse.grade, prices)
            conditional = inverse.grade is Grade.ROUNDED and bool(inverse.condition)
            how = inverse.grade, inverse.amplification, conditional
            yield Step(number, inverse.operand, reads, (target,), cost, *how)


def _is_worth_trying(equation: Equation, inverse: Inverse, parameter_only: frozenset[int]) -> bool:
    """Whether data as they usually are allow the inverse.

    Among very many elements of an activation some are almost 0, so that a guard would refuse to divide by it.
    A layer norm's scale is almost 0 only where it has been trained to be.
    """
    guarded = inverse.grade is Grade.GUARDED
    return inverse.usual and not (guarded and set(inverse.side_values(equation)) - parameter_only)


def _amplifies(program: Program, target: int, inverse: Inverse, length: int) -> bool:
    """Whether so many iterations of the inverse leave less than half of the digits."""
    if inverse.amplification <= 1:
        return False
    limit = harmless_amplification(program.avals[target].dtype)
    return length * np.log(inverse.amplification) > np.log(limit)


def _loses_digits(program: Program, step: Step, shown: dict[int, int]) -> bool:
    """Whether it rounds in a narrow type, or gives fewer digits of a value than something reads of it."""
    result = program.avals[step.writes[0]]
    if step.grade is Grade.NARROWED:
        return shown[step.writes[0]] > digits(program.avals[step.reads[0]])
    return not step.exact and exactness.is_narrow(result)


def _free_steps(program: Program, steps: Sequence[Step], available: frozenset[int]) -> dict[int, Step]:
    """What exact steps of no cost give from the available values, which may be inexact."""
    found: dict[int, Step] = {}
    reads_exactly = lambda s: any(_exact_reads(taint, program, s, lambda _: ANY) for taint in Taint)
    free = [s for s in steps if s.cost == 0 and s.exact and not reads_exactly(s)]
    while True:
        before = len(found)
        for step in free:
            if all(v in available or v in found for v in step.reads):
                found.update((v, step) for v in step.writes if v not in available and v not in found)
        if len(found) == before:
            return found


def _exact_reads(taint: Taint, program: Program, step: Step, interval_of: IntervalOf) -> tuple[int, ...]:
    if step.inverts:
        return exactness.exact_reads_back(step.reads, step.writes, program.avals)
    return exactness.exact_reads(taint, program.equations[step.equation], interval_of)


def _useful(steps: Sequence[Step], targets: Iterable[int], at_hand: frozenset[int]) -> list[Step]:
    """The steps that lead to a target and give something that is not at hand."""
    writers: dict[int, list[Step]] = {}
    for step in steps:
        if not at_hand.issuperset(step.writes):
            for v in step.writes:
                writers.setdefault(v, []).append(step)
    useful, open_values = set(), [v for v in targets if v not in at_hand]
    seen = set(open_values)
    while open_values:
        for step in writers.get(open_values.pop(), ()):
            useful.add(step)
            fresh = [v for v in step.reads if v not in at_hand and v not in seen]
            seen.update(fresh)
            open_values.extend(fresh)
    return [s for s in steps if s in useful]
