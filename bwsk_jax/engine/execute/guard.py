"""The guard: whether the data at hand allow the inverses of a plan.

Where a plan uses inverses that round and that it could do without, the data decide whether they are any good.
A first-order error analysis tells (N. J. Higham, *Accuracy and Stability of Numerical Algorithms*, 2nd ed.,
§3.3). For `x = solve(z, y)` the error is estimated as

    e(x) = |dx/dz| e(z) + |dx/dy| e(y),

in units of the rounding `eps`, where a value that was not inverted has `e(v) = |v|`. The guard trusts the
inverses only if `e(x) <= eps**(-1/3) * max(|x|, size(x))` for every element of every result that leaves them:
then two thirds of the digits are right. The usual size of elements is that on the last axis or in the whole
array, whichever is larger: `mean(|x|**(1/4))**4` over those that are neither 0 nor infinite. A root mean
square would let a single large element excuse any error of the others.

The forward pass, which has all values, gathers `evidence`; in a scan each iteration does, and all of it is
judged once after the scan. So the loops of sharded programs need no communication for it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

from bwsk_jax.engine.execute.steps import Environment, invert, leading_to
from bwsk_jax.engine.plan.plan import Plan
from bwsk_jax.engine.plan.problem import Step
from bwsk_jax.engine.program.types import at_least_float32, is_differentiable
from bwsk_jax.engine.rules.exactness import Grade

__all__ = ["Evidence", "evidence", "evidence_reads", "largest", "trusted"]


class Evidence(NamedTuple):
    """What is known of the error of one value that guarded inverses hand on, by places on its first axis.

    Attributes:
      error: the largest estimated error, as a fraction of `eps**(-1/3)`, of the elements where it is small
        neither beside the element nor beside the usual size on its last axis; 0 if there are none.
      mean_root: of the value, the mean of fourth roots from which its usual size is made.
    """

    error: Any
    mean_root: Any


def evidence_reads(plan: Plan) -> list[int]:
    """The values that `evidence` reads; none if the plan needs no guard."""
    return list(dict.fromkeys(v for s in _inversions(plan) for v in (*s.reads, *s.writes)))


def evidence(plan: Plan, values: Sequence[Any]) -> list[Evidence]:
    """The evidence in the values of `evidence_reads`, of this device and element; arrays of one dimension.

    The values are taken without their gradients: a division by 0 would reach these as 0 times infinity.
    """
    known = dict(zip(evidence_reads(plan), map(lax.stop_gradient, values), strict=True))
    unguarded = (s for s in plan.steps if s not in plan.guarded_steps)
    handed_on = set(plan.problem.targets).union(*(s.reads for s in unguarded))
    found = []
    with jax.debug_nans(False), jax.debug_infs(False):  # the analysis looks for them itself
        analysis = _ErrorAnalysis(plan, known)
        for step in _inversions(plan):
            if analysis.add(step) and step in plan.guarded_steps and handed_on.issuperset(step.writes):
                found.append(analysis.evidence(*step.writes))
    return found


def trusted(plan: Plan, found: Sequence[Evidence]) -> Any:
    """Whether the estimated error of whatever guarded inverses hand on is small: a boolean, or one for each
    place on the leading axis of evidence that a scan has stacked. None if the plan needs no guard.

    It is one verdict for all devices and elements of mapped axes that share the conditional. A predicate that
    `vmap` has batched would turn it into a select that runs both branches, and devices that communicate in a
    branch would wait for those that take the other one.
    """
    if plan.fallback is None:
        return None
    small = [e.error.max(-1, initial=0) <= _mean_of_positive(e.mean_root, -1) ** 4 for e in found]
    refused = (~functools.reduce(jnp.logical_and, small)).astype(jnp.int32)
    axes = set().union(
        *(plan.problem.program.equations[s.equation].axes for s in (*plan.steps, *plan.fallback))
    )
    if axes:
        refused = lax.pmax(refused, tuple(sorted(axes)))
    return largest(refused) == 0


def _inversions(plan: Plan) -> list[Step]:
    """The guarded inversions, and those that they depend on; none if the plan needs no guard."""
    return [s for s in leading_to(plan.steps, plan.guarded_steps) if s.inverts]


def _mean_of_positive(x: Any, axes: int | tuple[int, ...]) -> Any:
    """The mean over those elements of a non-negative array that are positive; 0 where there are none."""
    return jnp.sum(x, axes) / jnp.maximum(jnp.sum(x > 0, axes), 1).astype(x.dtype)


def _finite(x: Any, otherwise: float) -> Any:
    return jnp.where(jnp.isfinite(x), x, otherwise)


class _ErrorAnalysis:
    """Estimated errors of inverted values, in units of their rounding, from the true values."""

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

    def evidence(self, target: int) -> Evidence:
        error, value = map(at_least_float32, (self.error[target], jnp.abs(self.values[target])))
        error, value = (jnp.atleast_2d(x) for x in (error * self.epsilon[target] ** (1 / 3), value))
        mean_root = _mean_of_positive(jnp.sqrt(jnp.sqrt(_finite(value, 0.0))), -1)
        is_small = error <= jnp.maximum(value, mean_root[..., None] ** 4)
        left = _finite(jnp.where(is_small, 0.0, error), float(jnp.finfo(error.dtype).max))
        rest = tuple(range(1, value.ndim))
        return Evidence(left.max(rest, initial=0), _mean_of_positive(mean_root, rest[:-1]))


@custom_vmap
def largest(value):
    """A scalar that all elements of a mapped axis share: the largest of theirs."""
    return value


@largest.def_vmap
def _largest_over_axis(size, batched, value):
    return largest(jnp.max(value, axis=0)), False
