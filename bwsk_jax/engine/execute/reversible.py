"""`reversible`: sibling of `jax.checkpoint` whose backward pass inverts."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax

from bwsk_jax.engine.execute.guard import trusted
from bwsk_jax.engine.execute.keeping import keep, kept_values, reads_to_keep, without_floats
from bwsk_jax.engine.execute.own_derivative import with_rules
from bwsk_jax.engine.execute.recover import recover
from bwsk_jax.engine.execute.steps import Environment
from bwsk_jax.engine.plan.api import Policy, plan_for, wanted
from bwsk_jax.engine.plan.plan import Limit, Plan, PortablePlan
from bwsk_jax.engine.plan.problem import call_problem
from bwsk_jax.engine.program.arguments import StaticArguments, split_arguments, tracing_explained
from bwsk_jax.engine.program.eager import compiled_once, is_traced, remembered, traced
from bwsk_jax.engine.program.jaxprs import Program, flatten, read
from bwsk_jax.engine.program.lifting import refuse_modules, state_explained
from bwsk_jax.engine.program.platform import device
from bwsk_jax.engine.program.types import again, varying_axes
from bwsk_jax.engine.program.vjp import VjpTrace, split, trace_vjp, with_fill
from bwsk_jax.engine.rules.registry import registered_rules

__all__ = ["barrier", "pull_back", "reversible"]


_OF_CHECKPOINT = {
    "policy": "a plan takes its place, in which save_names= and replay_names= settle what happens to values "
    "that checkpoint_name has named; to compare with jax.checkpoint, give the policy as plan=",
    "prevent_cse": "a barrier stands wherever XLA would merge the replay with the forward pass",
    "concrete": "give static_argnums or static_argnames",
}
"""Arguments of `jax.checkpoint` that have no counterpart, and why."""


def reversible(
    fun: Callable | None = None,
    *,
    max_overhead: float | None = None,
    max_bytes: int | None = None,
    save_names: Sequence[str] = (),
    replay_names: Sequence[str] = (),
    invert: bool = True,
    plan: Plan | PortablePlan | Policy | None = None,
    static_argnums: int | Sequence[int] = (),
    static_argnames: str | Sequence[str] = (),
    **of_checkpoint: Any,
) -> Callable:
    """`fun` with a backward pass that saves, inverts or replays each value by plan; sibling of
    `jax.checkpoint`.

    It is for blocks: around a whole network it cannot lower the peak. The arguments are kept, as
    `jax.checkpoint` keeps them; everything else by plan. `jax.grad`, `vmap` and `jit` compose with it;
    forward-mode differentiation raises `TypeError`. It decorates functions and methods, with arguments as
    `@reversible(max_overhead=0.1)`.

    Args:
      fun: a function of pytrees, differentiable in what gradients are asked for. What it closes over is
        differentiated too. Leaves that are neither arrays nor numbers, such as functions in a module, are
        static.
      max_overhead, max_bytes, save_names, replay_names, invert: as for `plan`.
      plan: the plan to follow, in place of limits: what `plan` returned for this function, or
        `Plan.from_json` of such a plan that was stored. It is checked when the function is differentiated. Or
        one of `jax.checkpoint_policies`: then this is `jax.checkpoint(fun, policy=plan)`, to compare with.
      static_argnums, static_argnames: arguments that are not traced, as for `jax.jit`; they must be hashable.

    Raises:
      PlanError: when differentiated, if the plan is for another function or `max_bytes` is out of reach.
      TypeError: for an argument of `jax.checkpoint` that has no counterpart; the message says why. For a
        module of a framework that `bwsk_jax.frameworks` has a sibling for; the message names it.

    >>> import bwsk_jax, jax, jax.numpy as jnp
    >>> f = lambda x: jnp.sin(jnp.exp(x)).sum()
    >>> x = jnp.linspace(0.0, 1.0, 5)
    >>> bool(jnp.allclose(jax.grad(bwsk_jax.reversible(f))(x), jax.grad(f)(x)))
    True
    """
    for name in of_checkpoint:
        reason = _OF_CHECKPOINT.get(name, "there is no such argument")
        raise TypeError(f"reversible() does not take {name}: {reason}")
    followed = wanted(plan, max_overhead, max_bytes, save_names, replay_names)
    static = {"argnums": static_argnums, "argnames": static_argnames}
    wrap = functools.partial(_wrapped, followed=followed, invert=invert, **static)
    return wrap if fun is None else wrap(fun)


def _wrapped(fun: Callable, followed: Any, invert: bool, argnums: Any, argnames: Any) -> Callable:
    static = StaticArguments.of(fun, argnums, argnames)
    policy = None if isinstance(followed, (Limit, PortablePlan)) else followed

    @functools.lru_cache
    def of_traced(layout):
        def call(*leaves):
            args, kwargs = layout.joined(leaves)
            return fun(*args, **kwargs)

        return call

    @functools.wraps(fun)
    def wrapped(*args, **kwargs):
        refuse_modules("bwsk_jax.reversible", fun, args)
        leaves, layout = split_arguments(args, kwargs, static)
        with tracing_explained("bwsk_jax.reversible"), state_explained("bwsk_jax.reversible"):
            if policy is not None:
                return jax.checkpoint(of_traced(layout), policy=policy)(*leaves)
            if layout.is_all_traced:  # by `fun` itself JAX knows what it has traced before
                closed, out_tree = traced(fun, *args, **kwargs)
            else:
                closed, out_tree = traced(of_traced(layout), *leaves)

        def made():
            return _ReversibleCall(flatten(closed, hoist=True), followed, invert)

        rules = remembered(closed, (followed, invert, registered_rules(), device()), made)
        outputs = rules.differentiable()([*closed.consts, *leaves])
        return jax.tree.unflatten(out_tree, outputs)

    return wrapped


@dataclasses.dataclass(frozen=True, eq=False)
class _ReversibleCall:
    """A program with its derivatives.

    It holds no tracers: JAX keeps rules for longer than those live.
    """

    program: Program
    wanted: Limit | PortablePlan
    invert: bool
    derivatives: dict[Any, _Derivative] = dataclasses.field(default_factory=dict, repr=False)

    def differentiable(self) -> Callable[[Sequence[Any]], list[Any]]:
        """The program as a function of all its inputs."""
        return with_rules("bwsk_jax.reversible", self.primal, self.derivative)

    def primal(self, inputs):
        return self.program.evaluate(inputs, self.program.outputs)

    def derivative(self, varied: tuple[bool, ...]) -> _Derivative:
        """That with respect to these inputs. A plan that was given is for all of them."""
        key = varied if isinstance(self.wanted, Limit) else None
        if key not in self.derivatives:
            self.derivatives[key] = _Derivative(trace_vjp(self.program, key), self.wanted, self.invert)
        return self.derivatives[key]


@dataclasses.dataclass(frozen=True, eq=False)
class _Derivative:
    """The rules of the derivative of a program with respect to some of its inputs."""

    vjp: VjpTrace
    wanted: Limit | PortablePlan
    invert: bool

    @functools.cached_property
    def plan(self) -> Plan:
        return plan_for([call_problem(self.vjp, invert=self.invert)], self.wanted)

    def forward(self, inputs):
        values = self.vjp.program.evaluate(inputs, (*self.vjp.outputs, *reads_to_keep(self.plan)))
        saved, found = keep(self.plan, values[self.vjp.num_outputs :])
        results = values[: self.vjp.num_outputs], (inputs, saved, trusted(self.plan, found))
        return results if is_traced(inputs) else without_floats(results)

    def backward(self, kept, cotangents):
        varied, _ = split(self.vjp.varied_outputs, cotangents)
        # Outside `jit` JAX runs one operation after the other, which rounds as plain autodiff does there. But
        # it would compile the conditional of a guard again in each call.
        pull = self._pull_back if self.plan.fallback is None else self._compiled_pull_back
        reached = self.vjp.reached([ct is not None for ct in varied])
        reached = with_fill(self.vjp.varied_inputs, reached, False)
        pulled = zip(pull(kept, varied), reached, strict=True)
        return ([ct if is_reached else None for ct, is_reached in pulled],)

    @compiled_once
    def _compiled_pull_back(self, kept, cotangents):
        return self._pull_back(kept, cotangents)

    def _pull_back(self, kept, cotangents):
        inputs, saved, is_trusted = barrier(kept)  # or XLA merges the replay with the forward pass
        known = dict(zip(self.vjp.program.inputs, inputs, strict=True)) | kept_values(self.plan, saved)
        return pull_back(self.vjp, self.plan, known, is_trusted, cotangents)[0]


def barrier(kept: Any) -> Any:
    """A barrier around what varies over the same mapped axes: a common one would make all vary over all."""
    leaves, tree = jax.tree.flatten(kept)
    groups: dict[frozenset[str], list[int]] = {}
    for k, leaf in enumerate(leaves):
        groups.setdefault(varying_axes(leaf), []).append(k)
    for group in groups.values():
        for k, leaf in zip(group, lax.optimization_barrier([leaves[k] for k in group]), strict=True):
            leaves[k] = again(leaf)  # a barrier counts as a use
    return jax.tree.unflatten(tree, leaves)


def pull_back(
    vjp: VjpTrace, plan: Plan, known: Environment, is_trusted: Any, cotangents: Sequence[Any]
) -> tuple[list[Any], Environment]:
    """Pull the cotangents of the outputs that vary back, None where there is none; `is_trusted` as for
    `recover`.

    Returns the cotangent of each input, None where it has none, and the environment with all that was
    recovered.
    """
    environment = dict(plan.problem.program.constants) | known
    environment.update(recover(plan, known, is_trusted))
    residuals = [read(environment, v) for v in vjp.residuals]
    pulled = vjp.pullback(residuals)(cotangents)
    return with_fill(vjp.varied_inputs, pulled, None), environment
