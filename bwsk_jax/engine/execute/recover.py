"""Run a plan: give back, from what was saved, what the backward pass reads.

Where the plan uses inverses that round and that it could do without, the data decide whether they are any
good. A guard runs a first-order error analysis beside the inverses (N. J. Higham, *Accuracy and Stability of
Numerical Algorithms*, 2nd ed., §3.3): for `x = solve(z, y)`,

    e(x) = |dx/dz| e(z) + |dx/dy| e(y),

in units of the rounding `eps`, where a value that was not inverted has `e(v) = |v|`. The inverses are used
only if `e(x) <= eps**(-1/3) * max(|x|, rms(x))` for every element of every result that leaves the inverses:
two thirds of the digits are right. The root mean square is that of the last axis or of the whole array,
whichever is larger. Otherwise the plan's second schedule runs, which has no such inverse.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jax.extend.core import primitives as lax_p

from bwsk_jax.engine.plan.problem import Step
from bwsk_jax.engine.plan.solver import Plan
from bwsk_jax.engine.program.jaxprs import read
from bwsk_jax.engine.rules.inverses import Grade, inverses_of

__all__ = ["largest", "recover"]

_READS_KEY = {lax_p.random_bits_p, lax_p.random_split_p, lax_p.random_fold_in_p, lax_p.random_seed_p}


def recover(plan: Plan, known: dict[int, Any]) -> dict[int, Any]:
    """All targets of the plan, from the values of the free and the saved ones."""
    problem = plan.problem
    environment = dict(problem.program.constants) | known
    if plan.fallback is None:
        _run(plan, plan.steps, environment)
        return {v: environment[v] for v in problem.targets}
    shared, guarded, fallback = _stages(plan)
    _run(plan, shared, environment)
    with jax.debug_nans(False), jax.debug_infs(False):  # it looks for them itself
        trusted = _trusted(plan, guarded, environment)
    trusted = _agreed(plan, (*guarded, *fallback), trusted)

    wanted = [v for v in problem.targets if v not in environment]

    def branch(steps, given):
        def run(values):
            inner = dict(zip(given, values, strict=True))
            _run(plan, steps, inner)
            return [inner[v] for v in wanted]

        return run

    given = list(dict.fromkeys((*_reads(guarded, environment), *_reads(fallback, environment))))
    run = lax.cond(trusted, branch(guarded, given), branch(fallback, given), [environment[v] for v in given])
    environment.update(zip(wanted, run, strict=True))
    return {v: environment[v] for v in problem.targets}


def _run(plan: Plan, steps: Sequence[Step], environment: dict[int, Any]) -> None:
    for step in steps:
        results = _evaluate(plan, step, environment)
        environment.update(zip(step.writes, results, strict=True))


def _evaluate(plan: Plan, step: Step, environment: dict[int, Any]) -> list[Any]:
    equation = plan.problem.program.equations[step.equation]
    if not step.inverts:
        return equation.bind([read(environment, v) for v in equation.inputs])
    return [_solve(plan, step, environment)]


def _solve(plan: Plan, step: Step, environment: dict[int, Any]):
    equation = plan.problem.program.equations[step.equation]
    inverse = next(i for i in inverses_of(equation) if i.operand == step.operand)
    wanted = set(range(len(equation.inputs)) if inverse.reads is None else inverse.reads) - {step.operand}
    operands = [read(environment, v) if k in wanted else None for k, v in enumerate(equation.inputs)]
    with equation.scope():
        return inverse.solve(operands, [environment[v] for v in equation.outputs])


def _reads(steps: Sequence[Step], environment: dict[int, Any]) -> list[int]:
    """What the steps read from outside."""
    written: set[int] = set()
    outside: dict[int, None] = {}
    for step in steps:
        outside.update((v, None) for v in step.reads if v not in written)
        written.update(step.writes)
    return [v for v in outside if v in environment]


def _stages(plan: Plan) -> tuple[list[Step], list[Step], list[Step]]:
    """Split both schedules: (before the conditional, its branch with inverses, its branch without).

    Every step that reads a key comes before. Inside the conditional, `vmap` would batch the key with the
    branch, and the `rbg` generator then draws other bits than the forward pass did. So does what the risky
    inverses are applied to, for the guard to look at.
    """
    program = plan.problem.program
    common = {
        s for s in set(plan.steps).intersection(plan.fallback) if plan.problem.ground.issuperset(s.writes)
    }
    for schedule in (plan.steps, plan.fallback):
        drawn: set[int] = set()
        for step in reversed(schedule):
            if program.equations[step.equation].primitive in _READS_KEY or drawn.intersection(step.writes):
                common.add(step)
                drawn.update(step.reads)
    uncertain, sure = set(), []
    for step in plan.steps:
        if step in plan.risky or uncertain.intersection(step.reads):
            uncertain.update(step.writes)
        else:
            sure.append(step)
    needed = {v for s in _chain(plan, plan.steps) for v in s.reads}
    for step in reversed(sure):
        if needed.intersection(step.writes):
            common.add(step)
            needed.update(step.reads)
    available = set(plan.problem.free) | set(plan.saved)
    shared: dict[Step, None] = {}
    for step in (*plan.steps, *plan.fallback):
        if step in common and step not in shared and available.issuperset(step.reads):
            shared[step] = None
            available.update(step.writes)
    return (
        list(shared),
        [s for s in plan.steps if s not in shared],
        [s for s in plan.fallback if s not in shared],
    )


def _chain(plan: Plan, steps: Sequence[Step]) -> list[Step]:
    """The steps that lead to risky inverses, and these: what the guard has to look at."""
    needed: set[int] = set()
    chain = []
    for step in reversed(steps):
        if step in plan.risky or needed.intersection(step.writes):
            chain.append(step)
            needed.update(step.reads)
    return chain[::-1]


# --- the guard ---------------------------------------------------------------------------------------------


def _trusted(plan: Plan, steps: Sequence[Step], environment: dict[int, Any]):
    """Whether the estimated error of whatever the inverses among `steps` hand on is small.

    Runs them on values without gradients: derivatives go through the conditional alone, or a refused division
    by 0 would reach them as 0 times infinity.
    """
    program = plan.problem.program
    handed_on = set(plan.problem.targets).union(*(s.reads for s in plan.steps if s not in plan.risky))
    chain = _chain(plan, steps)
    environment = {v: lax.stop_gradient(environment[v]) for v in _reads(chain, environment)}
    _run(plan, chain, environment)
    error: dict[int, Any] = {}
    epsilon: dict[int, float] = {}
    verdicts = []

    def magnitude(v):
        return error.get(v, jnp.abs(environment[v]))

    for step in chain:
        if not step.inverts:
            continue  # a replay commits the same rounding as the forward pass did
        equation = program.equations[step.equation]
        (target,) = step.writes
        dtype = program.avals[target].dtype
        if not jnp.issubdtype(dtype, jnp.inexact):
            continue
        floats = [v for v in step.reads if plan.problem.float_size(v)]
        own = equation.out_avals[0].dtype if step.grade is Grade.NARROWED else dtype
        epsilon[target] = max([float(jnp.finfo(own).eps), *(epsilon.get(v, 0.0) for v in floats)])

        def solve(*values, step=step, floats=floats):
            return _solve(plan, step, environment | dict(zip(floats, values, strict=True)))

        primals = [environment[v] for v in floats]
        zeros = [jnp.zeros_like(x) for x in primals]
        parts = []
        for k, v in enumerate(floats):
            tangents = [magnitude(v).astype(x.dtype) if j == k else x for j, x in enumerate(zeros)]
            parts.append(jnp.abs(jax.jvp(solve, primals, tangents)[1]))
        error[target] = functools.reduce(jnp.add, parts)
        if step in plan.risky and target in handed_on:
            verdicts.append(_small(error[target], environment[target], epsilon[target]))
    return functools.reduce(jnp.logical_and, verdicts)


def _agreed(plan: Plan, steps: Sequence[Step], trusted):
    """One verdict for all that share the conditional.

    A predicate that `vmap` has batched would turn it into a select that runs both branches, and devices that
    communicate in a branch would wait for those that take the other one.
    """
    refused = (~trusted).astype(jnp.int32)
    axes = set().union(*(plan.problem.program.equations[s.equation].axes for s in steps))
    if axes:
        refused = lax.pmax(refused, tuple(sorted(axes)))
    return largest(refused) == 0


def _small(error, value, epsilon: float):
    """`error <= epsilon**(-1/3) * max(|value|, rms(value))` everywhere; false for anything not finite."""
    value = jnp.abs(value)
    wide = jnp.promote_types(value.dtype, jnp.float32)
    error, value = error.astype(wide), value.astype(wide)
    mean_square = jnp.mean(value * value, axis=-1, keepdims=True) if value.ndim else value * value
    scale = jnp.maximum(value, jnp.sqrt(jnp.maximum(mean_square, jnp.mean(mean_square))))
    return jnp.all((error <= epsilon ** (-1 / 3) * scale) & jnp.isfinite(error))


@custom_vmap
def largest(value):
    """A scalar that all elements of a mapped axis share: the largest of theirs."""
    return value


@largest.def_vmap
def _largest_over_axis(size, batched, value):
    return largest(jnp.max(value, axis=0)), False
