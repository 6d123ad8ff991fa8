"""The derivation graph: which values a backward pass has, which it needs, and every way to get from one to
the other.

A node per value. Each equation gives a *replay* (inputs -> outputs) and, for each operand that `rules.py` can
solve for, an *inversion* (outputs and other operands -> that operand).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterable, Sequence

import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from bwsk_jax.engine.program.jaxprs import Program
from bwsk_jax.engine.program.types import is_differentiable, nbytes
from bwsk_jax.engine.program.vjp import VjpTrace, split
from bwsk_jax.engine.rules import costs, exactness, intervals
from bwsk_jax.engine.rules.intervals import Interval
from bwsk_jax.engine.rules.inverses import Grade, Inverse, inverses_of

__all__ = ["Problem", "Step", "call_problem", "harmless_amplification", "scan_problem"]


@dataclasses.dataclass(frozen=True)
class Step:
    """Run equation number `equation` forward (`operand` None), or solve it for one operand.

    `reads` must be known before, `writes` are known after; `cost` is in FLOPs.
    """

    equation: int
    operand: int | None
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    cost: float
    grade: Grade | None = None
    amplification: float = 1.0

    @property
    def inverts(self) -> bool:
        """Whether it goes from output to operand."""
        return self.operand is not None

    @property
    def exact(self) -> bool:
        """Whether it gives bit for bit what the forward pass computed (as far as its operands are that)."""
        return self.grade in (None, Grade.EXACT)

    @property
    def risky(self) -> bool:
        """Whether its result can be off by more than rounding, depending on the data."""
        return self.grade in (Grade.ROUNDED, Grade.GUARDED)


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """What a plan has to achieve.

    Attributes:
      program: the function and its VJP.
      free: values that the backward pass has for nothing.
      targets: values that it needs.
      steps: every replay and inversion that could help, in the order of the equations.
      trivial: a step of no cost, from free values alone, for each value that has one.
      carry_in: targets that the next iteration of a reverse scan starts from.
      forbidden: by kind of inexactness (see `spreads`), the values that must not have it.
      ground: values that no inverse is wanted for, as they depend on no activation: dropout masks, cast
        weights.
      residuals: the values plain autodiff would keep.
      forward_cost: FLOPs of one evaluation of the function.
      length: iterations between two values that are known exactly.
    """

    program: Program
    free: frozenset[int]
    targets: tuple[int, ...]
    steps: tuple[Step, ...]
    trivial: dict[int, Step]
    carry_in: tuple[int, ...]
    forbidden: dict[str, frozenset[int]]
    ground: frozenset[int]
    residuals: tuple[int, ...]
    forward_cost: float
    length: int

    @functools.cached_property
    def bytes(self) -> dict[int, int]:
        """Bytes of each value."""
        return {v: nbytes(aval) for v, aval in enumerate(self.program.avals)}

    @property
    def residual_bytes(self) -> int:
        """What plain autodiff keeps."""
        return sum(self.bytes[v] for v in self.residuals)

    def fingerprint(self) -> tuple:
        """Equal for two problems exactly when a plan for one is a plan for the other."""
        sets = (self.free, self.targets, self.carry_in, self.residuals, *sorted(self.forbidden.items()))
        return (self.program.fingerprint(), *sets, self.steps, self.forward_cost, self.length)

    def overhead(self, steps: Iterable[Step]) -> float:
        """Recomputation as a fraction of one forward and backward pass (three times the forward's FLOPs)."""
        return sum(s.cost for s in steps) / max(3 * self.forward_cost, 1.0)

    def without(self, unwanted: Callable[[Step], bool]) -> Problem:
        """The same problem with fewer ways to solve it."""
        return dataclasses.replace(self, steps=tuple(s for s in self.steps if not unwanted(s)))

    def float_size(self, value: int) -> int:
        """Bytes of one element if the value is a float, else 0."""
        dtype = self.program.avals[value].dtype
        return dtype.itemsize if jnp.issubdtype(dtype, jnp.inexact) else 0

    def sensitive(self, step: Step) -> tuple[int, ...]:
        """What the step must not read with an error, if it is a replay."""
        return () if step.inverts else exactness.sensitive_inputs(self.program.equations[step.equation])

    def taints(self, step: Step) -> Collection[str]:
        """The kinds of inexactness that the step brings in: see `spreads`."""
        return {
            Grade.RELATIVE: ("rounded",),
            Grade.ROUNDED: ("rounded",),
            Grade.GUARDED: ("rounded",),
            Grade.NARROWED: ("rounded", "narrowed"),
        }.get(step.grade, ())

    def spreads(self, step: Step, taint: str, value: int, result: int) -> bool:
        """Whether inexactness of `value` reaches `result`.

        `rounded` (not bit for bit what the forward pass computed) ends where elements are mixed; `narrowed`
        (correct only to a narrower type) ends where the value returns to a narrower type. Neither reaches
        what is not a float.
        """
        if not self.float_size(value) or not self.float_size(result):
            return False
        if taint == "narrowed":
            return self.float_size(result) >= self.float_size(value)
        return step.inverts or not exactness.mixes(self.program.equations[step.equation])


def call_problem(trace: VjpTrace, *, invert: bool = True) -> Problem:
    """Of a call: its arguments are known in the backward pass, its residuals are wanted."""
    inputs = trace.program.inputs
    _, fixed = split(trace.differentiable_inputs, inputs)
    return _problem(trace, inputs, (), fixed, 1, invert)


def scan_problem(
    trace: VjpTrace, num_consts: int, num_carry: int, length: int = 1, *, invert: bool = True
) -> Problem:
    """Of one iteration: constants, `xs` and the carry-out are known, residuals and the carry-in wanted."""
    inputs = trace.program.inputs
    carry_in = inputs[num_consts : num_consts + num_carry]
    steady = (*inputs[:num_consts], *inputs[num_consts + num_carry :])
    carry_out = [v for v in trace.outputs[:num_carry] if not isinstance(v, Literal)]
    return _problem(trace, (*steady, *carry_out), carry_in, steady, length, invert)


def _problem(trace, known, carry_in, fixed, length, invert) -> Problem:
    program = trace.program
    wanted = [v for v in trace.residuals if not isinstance(v, Literal)]
    free = frozenset((*known, *program.constants))
    ground = _closure(program, (*fixed, *program.constants))
    constant = _closure(program, program.constants)
    price = lambda e: 0.0 if constant.issuperset(e.outputs) else costs.cost(e)
    replays = [
        Step(n, None, tuple(dict.fromkeys(e.reads)), e.outputs, price(e))
        for n, e in enumerate(program.equations)
        if not e.effects
    ]
    inversions = list(_inversions(program, ground, length)) if invert else []
    shown = _digits_shown(trace, carry_in)
    narrows = lambda s: s.grade is Grade.NARROWED
    blurs = lambda s: narrows(s) and shown[s.writes[0]] > _digits(program, s.reads[0])
    inversions = [s for s in inversions if not blurs(s)]
    narrow = min((_digits(program, s.reads[0]) for s in inversions if narrows(s)), default=0)
    # Rounding adds up from one recovered carry to the next; below float32 that shows in the gradient.
    fragile = {v for v in carry_in if 0 < _digits(program, v) < jnp.finfo(jnp.float32).nmant}
    steps = sorted(
        (*replays, *inversions), key=lambda s: (s.equation, -1 if s.operand is None else s.operand)
    )
    steps = [s for s in steps if not free.issuperset(s.writes)]
    trivial = _trivial(steps, free)
    targets = tuple(dict.fromkeys(v for v in (*wanted, *carry_in) if v not in free))
    return Problem(
        program=program,
        free=free,
        targets=targets,
        steps=tuple(_useful(steps, targets, free, trivial)),
        trivial=trivial,
        carry_in=tuple(dict.fromkeys(v for v in carry_in if v not in free)),
        forbidden={
            "rounded": _read_sensitively(trace) | fragile if inversions else frozenset(),
            "narrowed": frozenset(v for v, digits in shown.items() if digits > narrow),
        },
        ground=ground,
        residuals=tuple(dict.fromkeys(v for v in wanted if v not in free and v not in constant)),
        forward_cost=costs.forward_cost(program, trace.outputs),
        length=length,
    )


def _digits(program: Program, value: int) -> int:
    """Binary digits of a float's type, 0 of anything else."""
    aval = program.avals[value]
    return int(jnp.finfo(aval.dtype).nmant) if is_differentiable(aval) else 0


def _digits_shown(trace: VjpTrace, carry_in: Iterable[int]) -> dict[int, int]:
    """With how many digits each value reaches the outputs: the most, over all ways, of the fewest on the way.

    What some output, or the carry that is handed on, shows with all its digits must not come back from a cast
    that narrowed it.
    """
    program = trace.program
    outputs = [v for v in trace.outputs if not isinstance(v, Literal)]
    digits = dict.fromkeys(range(len(program.avals)), 0)
    digits.update((v, _digits(program, v)) for v in (*outputs, *carry_in))
    for equation in reversed(program.equations):
        most = max((digits[v] for v in equation.outputs), default=0)
        for v in equation.reads:
            digits[v] = max(digits[v], min(most, _digits(program, v)))
    return digits


def _read_sensitively(trace: VjpTrace) -> frozenset[int]:
    """The residuals that the backward pass compares, divides by or otherwise must have to the last bit."""
    pullback = trace.trace_pullback()
    sensitive: set[int] = set()
    for equation in reversed(pullback.equations):
        sensitive.update(exactness.sensitive_inputs(equation))
        if sensitive.intersection(equation.outputs) and not exactness.mixes(equation):
            sensitive.update(v for v in equation.reads if is_differentiable(pullback.avals[v]))
    named = zip(trace.residuals, pullback.inputs, strict=False)
    return frozenset(v for v, inner in named if inner in sensitive and not isinstance(v, Literal))


def _closure(program: Program, values: Iterable[int]) -> frozenset[int]:
    """All that can be computed from `values` and literals."""
    closed = set(values)
    for equation in program.equations:
        if closed.issuperset(equation.reads) and not equation.effects:
            closed.update(equation.outputs)
    return frozenset(closed)


def _inversions(program, ground, length):
    known: dict[int, Interval] = {}

    def interval_of(atom):
        return (
            intervals.literal_interval(atom) if isinstance(atom, Literal) else known.get(atom, intervals.ANY)
        )

    for number, equation in enumerate(program.equations):
        bounds = intervals.interval(equation, [interval_of(v) for v in equation.inputs])
        known.update(dict.fromkeys(equation.outputs, bounds))
        for inverse in inverses_of(equation, interval_of):
            target = equation.inputs[inverse.operand]
            if target in ground or _amplifies(program, target, inverse, length):
                continue
            read = range(len(equation.inputs)) if inverse.reads is None else inverse.reads
            atoms = (equation.inputs[k] for k in read if k != inverse.operand)
            others = (v for v in atoms if not isinstance(v, Literal))
            reads = tuple(dict.fromkeys((*equation.outputs, *others)))
            # What the inverse computes has the operand's size; it is priced like the equation itself.
            price, grade = costs.cost(equation), inverse.grade
            yield Step(number, inverse.operand, reads, (target,), price, grade, inverse.amplification)


def harmless_amplification(dtype) -> float:
    """How much rounding may grow before half of the digits are gone."""
    return float(jnp.finfo(dtype).eps) ** -0.5


def _amplifies(program: Program, target: int, inverse: Inverse, length: int) -> bool:
    if inverse.amplification <= 1:
        return False
    limit = harmless_amplification(program.avals[target].dtype)
    return length * np.log(inverse.amplification) > np.log(limit)


def _trivial(steps: Sequence[Step], free: frozenset[int]) -> dict[int, Step]:
    """What exact steps of no cost give from the free values."""
    found: dict[int, Step] = {}
    while True:
        before = len(found)
        for step in steps:
            if step.cost == 0 and step.exact and all(v in free or v in found for v in step.reads):
                found.update((v, step) for v in step.writes if v not in free and v not in found)
        if len(found) == before:
            return found


def _useful(steps, targets, free, trivial):
    """The steps that lead to a target and give something that is not already there."""
    at_hand = free.union(trivial)
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
