"""Plans, the limits that they keep to, the form in which they are stored, and the check that a plan does what
it has to."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import numbers
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from bwsk_jax.engine.plan.fingerprint import fingerprint, signature
from bwsk_jax.engine.plan.problem import Problem, Step
from bwsk_jax.engine.plan.schedules import propagate
from bwsk_jax.engine.program.types import harmless_amplification, is_differentiable
from bwsk_jax.engine.rules.exactness import Grade, Taint

__all__ = ["Limit", "Plan", "PlanError", "PortablePlan", "check_plan", "outgrows"]

DEFAULT_OVERHEAD = 0.03
LEAST_MEMORY = math.inf
"""As `max_overhead`: any overhead, for the fewest bytes."""
OVERHEAD_WEIGHT = 0.005
"""What an overhead of 1 is worth within a limit, as a fraction of the residuals' bytes.

It only breaks near-ties: without it the last half percent of memory would cost a third of the recomputation.
Because it is fixed, a looser limit never saves more bytes."""
LEAST_MEMORY_WEIGHT = 0.0005
"""The same where the fewest bytes are asked for: what half a percent takes may be a tenth of what is left."""


FORMAT = "bwsk_jax plan 1"
"""Of a plan that is stored."""


class PlanError(ValueError):
    """No plan keeps to the limit, or a plan does not do what it has to."""


@dataclasses.dataclass(frozen=True)
class Limit:
    """What a plan may cost, time or bytes but not both, and what becomes of values that have a name.

    Attributes:
      max_overhead: by how much a plan may be slower than the fastest, as a fraction of one forward and
        backward pass. On a CPU that is recomputation as a fraction of FLOPs.
      max_bytes: bytes saved per call or per iteration. Where neither is given, `max_overhead` is 0.03.
      save_names: values of these names are saved where the backward pass has any use for them.
      replay_names: values of these names are not saved, nor are they in another form that costs nothing.
    """

    max_overhead: float | None = None
    max_bytes: int | None = None
    save_names: Sequence[str] = ()
    replay_names: Sequence[str] = ()

    def __post_init__(self):
        self._check_names()
        if self.max_overhead is not None and self.max_bytes is not None:
            raise ValueError("give max_overhead or max_bytes, not both: one is minimised under the other")
        if self.max_overhead is None and self.max_bytes is None:
            object.__setattr__(self, "max_overhead", DEFAULT_OVERHEAD)
        for name in ("max_overhead", "max_bytes"):
            value = getattr(self, name)
            if value is None:
                continue
            if not isinstance(value, numbers.Real):
                raise TypeError(f"{name} must be a number, got {value!r}")
            if not float(value) >= 0:
                raise ValueError(f"{name} must not be negative, got {value}")

    def _check_names(self) -> None:
        for field in ("save_names", "replay_names"):
            names = getattr(self, field)
            if isinstance(names, str) or not all(isinstance(name, str) for name in names):
                raise TypeError(f"{field} must be a sequence of strings, got {names!r}")
            object.__setattr__(self, field, tuple(dict.fromkeys(names)))
        if both := sorted(set(self.save_names).intersection(self.replay_names)):
            raise ValueError(f"both save_names and replay_names hold {', '.join(both)}")

    @property
    def bounds_overhead(self) -> bool:
        """Whether overhead is limited, rather than bytes or nothing."""
        return self.max_overhead is not None and math.isfinite(self.max_overhead)

    @property
    def weights(self) -> tuple[float, float]:
        """The factors in the objective of a plan's bytes, in units of the residuals', and of its overhead."""
        if self.max_bytes is not None:
            return 1e-6, 1.0
        return 1.0, OVERHEAD_WEIGHT if self.bounds_overhead else LEAST_MEMORY_WEIGHT


@dataclasses.dataclass(frozen=True)
class PortablePlan:
    """A plan without its problem: numbers that can be stored, and given to the same function elsewhere.

    Attributes:
      fingerprint: says which problem it is for.
      saved: as for `Plan`.
      steps, fallback: as for `Plan`, each step as the number of its equation and the place of the operand
        that it solves for, None for a replay.
      gap, least_time: as for `Plan`.
      traffic: what moving a byte cost where the plan was made.
    """

    fingerprint: str
    saved: tuple[int, ...]
    steps: tuple[tuple[int, int | None], ...]
    fallback: tuple[tuple[int, int | None], ...] | None
    gap: float
    least_time: float = 0.0
    traffic: float = 0.0

    @classmethod
    def from_json(cls, text: str) -> PortablePlan:
        """Read what `Plan.to_json` wrote.

        Raises:
          PlanError: it is something else.
        """
        place = lambda step: (int(step[0]), None if step[1] is None else int(step[1]))
        try:
            fields: dict[str, Any] = json.loads(text)
            if fields["format"] != FORMAT:
                raise ValueError(f"its format is not {FORMAT!r}")
            fallback = fields["fallback"]
            return cls(
                fingerprint=str(fields["fingerprint"]),
                saved=tuple(map(int, fields["saved"])),
                steps=tuple(map(place, fields["steps"])),
                fallback=None if fallback is None else tuple(map(place, fallback)),
                gap=float(fields["gap"]),
                least_time=float(fields.get("least_time", 0.0)),
                traffic=float(fields.get("traffic", 0.0)),
            )
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise PlanError(f"Plan.to_json did not write this: {type(error).__name__}: {error}") from error

    def to_json(self) -> str:
        """The plan as text."""
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)})

    def on(self, *problems: Problem) -> Plan:
        """The plan for that one of these problems that it was made for.

        Raises:
          PlanError: it is for another problem, or has steps that are not possible or not allowed here.
        """
        problem = next((p for p in problems if fingerprint(p) == self.fingerprint), None)
        if problem is None:
            raise PlanError(
                "the plan is for another function, for arguments of other types, or for what another version "
                "of JAX makes of the function"
            )
        if not set(self.saved).issubset(range(len(problem.program.avals))):
            raise PlanError("the plan saves values that the function does not have")
        steps = {(s.equation, s.operand): s for s in (*problem.free_steps.values(), *problem.steps)}

        def found(place):
            if place not in steps:
                how = "replays" if place[1] is None else "inverts"
                raise PlanError(f"the plan {how} equation {place[0]}, which is not possible here")
            return steps[place]

        fallback = None if self.fallback is None else tuple(map(found, self.fallback))
        plan = Plan(problem, self.saved, tuple(map(found, self.steps)), fallback, self.gap)
        check_plan(plan)
        if problem.traffic == self.traffic:
            return dataclasses.replace(plan, least_time=self.least_time)
        return plan


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """What to save, and the steps that give back the rest.

    Attributes:
      problem: what the plan has to achieve.
      saved: the numbers of the saved values.
      steps: what the backward pass runs, in order.
      fallback: what it runs instead where the data refuse a guarded step, None if nothing needs a guard. Its
        inverses are the unavoidable ones: without them the carry could not be had from what is saved.
      gap: how far `saved_bytes` (or the overhead) may be from the best, as a fraction; 0 when proven best.
      least_time: the `time` of the fastest plan; 0 where the plan was made for another device.
    """

    problem: Problem
    saved: tuple[int, ...]
    steps: tuple[Step, ...]
    fallback: tuple[Step, ...] | None
    gap: float = 0.0
    least_time: float = 0.0

    @property
    def saved_bytes(self) -> int:
        """Bytes kept beyond what is known anyway, per call or per iteration."""
        return sum(self.problem.bytes[v] for v in self.saved)

    @property
    def residual_bytes(self) -> int:
        """Bytes that plain autodiff keeps, counted in the same way."""
        return self.problem.residual_bytes

    @property
    def overhead(self) -> float:
        """How much longer it takes than the fastest plan, as a fraction of one forward and backward pass.

        On a CPU, where the fastest plan saves all, that is the recomputation. On TPUs and GPUs, which compute
        much faster than they move data, it takes time as well to save a value and read it again.
        """
        return self.time - self.least_time

    @property
    def time(self) -> float:
        """What recomputation and saved values take, as a fraction of one forward and backward pass."""
        return self.problem.time(self.steps, self.saved)

    @property
    def fallback_overhead(self) -> float:
        """The overhead of `fallback`, where there is one, else of `steps`."""
        if self.fallback is None:
            return self.overhead
        return self.problem.time(self.fallback, self.saved) - self.least_time

    @property
    def inverted(self) -> int:
        """Number of inverse steps."""
        return sum(s.inverts for s in self.steps)

    @property
    def is_checkpoint(self) -> bool:
        """Whether it is what `jax.checkpoint` does in a scan: the carry is saved, and all else replayed.

        What has an effect, such as printing, `jax.checkpoint` runs once more; then it is not.
        """
        if self.problem.handed is None or self.inverted:
            return False
        program = self.problem.program  # the other inputs of a scan's body are known without being saved
        replays = set(self.saved).issubset(program.inputs)
        return replays and not any(equation.effects for equation in program.equations)

    @functools.cached_property
    def guarded_steps(self) -> frozenset[Step]:
        """The steps that the guard watches: inverses that depend on the data, and that the fallback lacks."""
        if self.fallback is None:
            return frozenset()
        return frozenset(s for s in self.steps if s.data_dependent).difference(self.fallback)

    @functools.cached_property
    def inexact(self) -> frozenset[int]:
        """Values that are not bit for bit what the forward pass computed."""
        tainted = propagate(self.problem, self.steps, self.fallback or ())
        if tainted is None:
            raise PlanError("a recovered value is used where its rounding would show")
        return frozenset(tainted[Taint.INEXACT])

    @property
    def portable(self) -> PortablePlan:
        """The plan without its problem."""
        places = lambda steps: tuple((s.equation, s.operand) for s in steps)
        fallback = None if self.fallback is None else places(self.fallback)
        worth = self.gap, self.least_time, self.problem.traffic
        return PortablePlan(fingerprint(self.problem), self.saved, places(self.steps), fallback, *worth)

    def to_json(self) -> str:
        """The plan as text, for `from_json`.

        It can be stored, and given to `reversible` or `reversible_scan` in another process or on another
        machine, where it is checked before it is used:

        >>> import bwsk_jax, jax, jax.numpy as jnp
        >>> f, x = (lambda x: jnp.sin(jnp.exp(x)).sum()), jnp.linspace(0.0, 1.0, 5)
        >>> text = bwsk_jax.plan(f, x).to_json()
        >>> same = bwsk_jax.reversible(f, plan=bwsk_jax.Plan.from_json(text))
        >>> bool(jnp.allclose(jax.grad(same)(x), jax.grad(f)(x)))
        True
        """
        return self.portable.to_json()

    @staticmethod
    def from_json(text: str) -> PortablePlan:
        """What `to_json` wrote; the result has no problem until it is given to a function.

        Raises:
          PlanError: the text is something else.
        """
        return PortablePlan.from_json(text)

    def to_policy(self) -> Callable[..., bool]:
        """A policy of `jax.checkpoint` that saves what the plan saves, for code that has no `reversible`.

        A policy sees no values, only what an equation does with operands of which shapes. Where several
        equations look alike and the plan saves the result of one, the policy saves all of theirs.

        Raises:
          PlanError: the plan inverts, which no policy can say. Make it with `invert=False`.

        >>> import bwsk_jax, jax, jax.numpy as jnp
        >>> f, x = (lambda x: jnp.sin(jnp.exp(x)).sum()), jnp.linspace(0.0, 1.0, 5)
        >>> policy = bwsk_jax.plan(f, x, invert=False).to_policy()
        >>> bool(jnp.allclose(jax.grad(jax.checkpoint(f, policy=policy))(x), jax.grad(f)(x)))
        True
        """
        if self.inverted:
            raise PlanError(
                f"a policy of jax.checkpoint says what to save, but the plan has {self.inverted} inverse "
                "steps: make it with invert=False"
            )
        saved = set(self.saved)
        equations = (e for e in self.problem.program.equations if saved.intersection(e.outputs))
        saves = {signature(e.primitive, e.in_avals, e.params) for e in equations}
        return lambda primitive, *avals, **params: signature(primitive, avals, params) in saves

    def __str__(self) -> str:
        """One line for each value of the backward pass: how it is had, by which equation and source line."""
        fallback = "" if self.fallback is None else f" ({self.fallback_overhead:.2%} where a guard refuses)"
        gap = f", within {self.gap:.1%} of the best" if self.gap else ""
        return (
            f"saves {self.saved_bytes:,} of {self.residual_bytes:,} bytes, "
            f"at an overhead of {self.overhead:.2%}{fallback}, {self.inverted} inverse steps{gap}\n"
            f"{_table(self._rows())}\n(* is read by the backward pass or starts the next iteration)"
        )

    def _rows(self) -> Iterable[tuple[str, ...]]:
        program, targets = self.problem.program, set(self.problem.targets)
        makers = {v: e for e in program.equations for v in e.outputs}

        def row(v, how, equation):
            mark = "*" if v in targets else " "
            name, line = (str(equation.primitive), equation.line) if equation else ("argument", "")
            shape, size = program.avals[v].str_short(short_dtypes=True), f"{self.problem.bytes[v]:,}"
            return (f"{mark}{v}", shape, size, how, name, line)

        yield ("value", "shape", "bytes", "how", "equation", "source")
        for v in self.saved:
            yield row(v, "saved", makers.get(v))
        for s in self.steps:
            how = "replayed" if s.grade is None else f"inverted ({s.grade.value})"
            for v in s.writes:
                yield row(v, how, program.equations[s.equation])


def _table(rows: Iterable[tuple[str, ...]]) -> str:
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def check_plan(plan: Plan) -> None:
    """Raise `PlanError` unless every step reads only what is known by then, nothing inexact is used where
    that could be seen, and all targets are known at the end.

    The check does not depend on how the plan was found.
    """
    for name, schedule in (("steps", plan.steps), ("fallback", plan.fallback)):
        if schedule is None:
            continue
        known = set(plan.problem.available) | set(plan.saved)
        for step in schedule:
            missing = [v for v in step.reads if v not in known]
            if missing:
                equation = plan.problem.program.equations[step.equation]
                raise PlanError(
                    f"{name}: {equation.primitive} at {equation.line} reads {missing}, not known by then"
                )
            known.update(step.writes)
        missing = [v for v in plan.problem.targets if v not in known]
        if missing:
            raise PlanError(f"{name}: the backward pass needs {missing}, which no step gives")
    schedules = [plan.steps] if plan.fallback is None else [plan.steps, plan.fallback]
    if propagate(plan.problem, *schedules) is None:
        raise PlanError("a recovered value is used where its rounding would show")
    unguarded = plan.steps if plan.fallback is None else plan.fallback
    if any(s.grade is Grade.GUARDED for s in unguarded):
        raise PlanError("an inverse that needs a guard is used without one")
    if outgrows(plan):
        raise PlanError(
            f"its inverses multiply the rounding of the carry too far in {plan.problem.length} iterations"
        )


def outgrows(plan: Plan) -> bool:
    """Whether the constants that its inverses divide by make rounding of the carry cost half of the digits,
    over all iterations.
    """
    worst: dict[int, float] = {}
    for step in plan.steps:
        before = max((worst.get(v, 1.0) for v in step.reads), default=1.0)
        worst.update(dict.fromkeys(step.writes, before * step.amplification if step.inverts else before))
    carry = plan.problem.carry_in
    types = [plan.problem.program.avals[v] for v in carry]
    limit = min((harmless_amplification(t.dtype) for t in types if is_differentiable(t)), default=math.inf)
    growth = max((worst.get(v, 1.0) for v in carry), default=1.0)
    return plan.problem.length * math.log(growth) > math.log(limit)
