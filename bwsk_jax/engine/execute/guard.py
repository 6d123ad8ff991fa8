"""The guard: whether the data at hand allow the inverses of a plan.

Where a plan uses inverses that round and that it could do without, the data decide whether they are any good.
A first-order error analysis runs beside them (N. J. Higham, *Accuracy and Stability of Numerical Algorithms*,
2nd ed., §3.3). For `x = solve(z, y)` the error is estimated as

    e(x) = |dx/dz| e(z) + |dx/dy| e(y),

in units of the rounding `eps`, where a value that was not inverted has `e(v) = |v|`. The guard trusts the
inverses only if `e(x) <= eps**(-1/3) * max(|x|, rms(x))` for every element of every result that leaves them:
then two thirds of the digits are right. The root mean square is that of the last axis or of the whole array,
whichever is larger.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

from bwsk_jax.engine.execute.steps import Environment, invert, leading_to, reads_from, run_steps
from bwsk_jax.engine.plan.plan import Plan
from bwsk_jax.engine.plan.problem import Step
from bwsk_jax.engine.program.types import at_least_float32, is_differentiable
from bwsk_jax.engine.rules.exactness import Grade

__all__ = ["largest", "trusted"]


def trusted(plan: Plan, steps: Sequence[Step], others: Iterable[Step], environment: Environment) -> Any:
    """Whether the estimated error of whatever the inverses among `steps` hand on is small; a boolean scalar.

    It is one verdict for all devices and elements of mapped axes that share the choice between `steps` and
    `others`, the steps that run instead.
    """
    with jax.debug_nans(False), jax.debug_infs(False):  # the guard looks for them itself
        verdict = _verdict(plan, steps, environment)
    return _agreed(plan, (*steps, *others), verdict)


def _verdict(plan: Plan, steps: Sequence[Step], environment: Environment) -> Any:
    """The verdict on the data of this device and element.

    The inverses run on values without gradients: derivatives go through the conditional alone, or a refused
    division by 0 would reach them as 0 times infinity.
    """
    unguarded = (s for s in plan.steps if s not in plan.guarded_steps)
    handed_on = set(plan.problem.targets).union(*(s.reads for s in unguarded))
    chain = leading_to(steps, plan.guarded_steps)
    values = {v: lax.stop_gradient(environment[v]) for v in reads_from(chain, environment)}
    run_steps(plan, chain, values)
    analysis = _ErrorAnalysis(plan, values)
    verdicts = []
    for step in chain:
        if analysis.add(step) and step in plan.guarded_steps and handed_on.issuperset(step.writes):
            verdicts.append(analysis.is_small(*step.writes))
    return functools.reduce(jnp.logical_and, verdicts)


class _ErrorAnalysis:
    """Estimated errors of inverted values, in units of their rounding."""

    def __init__(self, plan: Plan, values: Environment):
        self.plan, self.values = plan, values
        self.error: dict[int, Any] = {}
        self.epsilon: dict[int, float] = {}

    def add(self, step: Step) -> bool:
        """Estimate the error of what an inversion gives; False where there is none to estimate.

        A replay commits the same rounding as the forward pass did.
        """
        program = self.plan.problem.program
        floats = [v for v in step.reads if is_differentiable(program.avals[v])]
        if not step.inverts or not floats or not is_differentiable(program.avals[step.writes[0]]):
            return False
        (target,) = step.writes
        narrowed = step.grade is Grade.NARROWED
        rounded = program.equations[step.equation].out_avals[0] if narrowed else program.avals[target]
        own = float(jnp.finfo(rounded.dtype).eps)
        self.epsilon[target] = max([own, *(self.epsilon.get(v, 0.0) for v in floats)])

        def solve(*values):
            return invert(self.plan, step, self.values | dict(zip(floats, values, strict=True)))

        primals = [self.values[v] for v in floats]
        zeros = [jnp.zeros_like(x) for x in primals]
        parts = []
        for k, v in enumerate(floats):
            tangents = list(zeros)
            tangents[k] = self._error_of(v).astype(zeros[k].dtype)
            parts.append(jnp.abs(jax.jvp(solve, primals, tangents)[1]))
        self.error[target] = functools.reduce(jnp.add, parts)
        return True

    def _error_of(self, value: int) -> Any:
        return self.error[value] if value in self.error else jnp.abs(self.values[value])

    def is_small(self, target: int) -> Any:
        """`error <= epsilon**(-1/3) * max(|value|, rms(value))` everywhere; false for anything not finite."""
        error, value = map(at_least_float32, (self.error[target], jnp.abs(self.values[target])))
        mean_square = jnp.mean(value * value, axis=-1, keepdims=True) if value.ndim else value * value
        scale = jnp.maximum(value, jnp.sqrt(jnp.maximum(mean_square, jnp.mean(mean_square))))
        return jnp.all((error <= self.epsilon[target] ** (-1 / 3) * scale) & jnp.isfinite(error))


def _agreed(plan: Plan, steps: Iterable[Step], verdict: Any) -> Any:
    """One verdict for all that share the conditional.

    A predicate that `vmap` has batched would turn it into a select that runs both branches, and devices that
    communicate in a branch would wait for those that take the other one.
    """
    refused = (~verdict).astype(jnp.int32)
    axes = set().union(*(plan.problem.program.equations[s.equation].axes for s in steps))
    if axes:
        refused = lax.pmax(refused, tuple(sorted(axes)))
    return largest(refused) == 0


@custom_vmap
def largest(value):
    """A scalar that all elements of a mapped axis share: the largest of theirs."""
    return value


@largest.def_vmap
def _largest_over_axis(size, batched, value):
    return largest(jnp.max(value, axis=0)), False
