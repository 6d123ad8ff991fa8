"""`reversible_scan`: sibling of `jax.lax.scan` whose backward pass inverts.

The scan itself is the unit: one derivative of its own for the forward scan, and a reverse scan that carries
the recovered activation beside its cotangent. (One for each layer inside an ordinary scan would still stack
every layer's output.)
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Literal

from bwsk_jax.engine.execute.drift import DriftAlarm, spoiled, warn_if_lost
from bwsk_jax.engine.execute.guard import trusted
from bwsk_jax.engine.execute.keeping import keep, kept_values, reads_to_keep, without_floats
from bwsk_jax.engine.execute.own_derivative import with_rules
from bwsk_jax.engine.execute.reversible import barrier, pull_back
from bwsk_jax.engine.execute.segments import KeptCarries, Segments
from bwsk_jax.engine.plan.api import Policy, check_save_every, longest_stretch, plan_for, wanted
from bwsk_jax.engine.plan.plan import Limit, Plan, PortablePlan
from bwsk_jax.engine.plan.problem import scan_problems
from bwsk_jax.engine.program.eager import compiled_once
from bwsk_jax.engine.program.jaxprs import Program
from bwsk_jax.engine.program.lifting import refuse_modules, state_explained
from bwsk_jax.engine.program.narrow import is_widened
from bwsk_jax.engine.program.platform import device, platform
from bwsk_jax.engine.program.scan_body import Item, ScanBody, trace_body
from bwsk_jax.engine.program.types import cast_like, is_differentiable, without_weak_type
from bwsk_jax.engine.program.vjp import filled, merge, split, with_fill
from bwsk_jax.engine.rules.registry import registered_rules

__all__ = ["reversible_scan"]


def reversible_scan(
    f: Callable,
    init: Any,
    xs: Any = None,
    length: int | None = None,
    reverse: bool = False,
    unroll: int | bool = 1,
    *,
    max_overhead: float | None = None,
    max_bytes: int | None = None,
    save_names: Sequence[str] = (),
    replay_names: Sequence[str] = (),
    save_every: int | None = None,
    invert: bool = True,
    plan: Plan | PortablePlan | Policy | None = None,
) -> tuple[Any, Any]:
    """`jax.lax.scan` whose backward pass recovers each iteration from the one after it.

    Computes what `lax.scan` computes of the same arguments and differentiates what it differentiates,
    closed-over values included, keeping per iteration only what the plan saves. Each carry is recovered from
    the next, so rounding can build up. If the recovered `init` lacks half of its digits, all gradients
    through the scan are NaN, and a call outside `jax.jit` issues a `ReconstructionWarning`. Under
    `jax.debug_nans(True)` a compiled gradient does so too, because JAX then runs it again without `jit`.

    Args:
      f, init, xs, length, reverse, unroll: as for `jax.lax.scan`.
      max_overhead, max_bytes, save_names, replay_names, invert: as for `plan`, for each iteration.
      save_every: keep the carry every so many iterations and start afresh from it, which ends any drift.
      plan: what to follow in place of limits: a plan of `plan_scan` for these arguments, also one from
        `Plan.from_json`; it is checked when the scan is differentiated. Or, to compare with, one of
        `jax.checkpoint_policies`: then this is `lax.scan` over `jax.checkpoint(f, policy=plan)`.

    Returns:
      `(carry, ys)`, as `jax.lax.scan` does.

    Raises:
      TypeError: as `jax.lax.scan` does, and for forward-mode differentiation.
      ValueError: as `jax.lax.scan` does, and for a plan beside a limit, or a policy beside `save_every`.
      PlanError: when differentiated, if the plan is for another scan or the limit is out of reach.

    >>> import bwsk_jax, jax, jax.numpy as jnp
    >>> weights = jnp.linspace(-0.1, 0.1, 6 * 8 * 8).reshape(6, 8, 8)
    >>> def coupling(carry, w):
    ...     return (carry[1], carry[0] + jnp.tanh(carry[1] @ w)), None
    >>> def loss(weights, scan):
    ...     (a, b), _ = scan(coupling, (jnp.ones((2, 8)), jnp.ones((2, 8))), weights)
    ...     return (a * b).sum()
    >>> ours = jax.grad(loss)(weights, bwsk_jax.reversible_scan)
    >>> bool(jnp.allclose(ours, jax.grad(loss)(weights, jax.lax.scan), atol=1e-4))
    True
    """
    followed = wanted(plan, max_overhead, max_bytes, save_names, replay_names)
    check_save_every(save_every)
    if callable(followed):
        return _scan_by_policy(followed, save_every, f, init, xs, length, reverse, unroll)
    return _scan_by_plan(followed, save_every, invert, f, init, xs, length, reverse, unroll)


def _scan_by_plan(followed, save_every, invert, f, init, xs, length, reverse, unroll):
    refuse_modules("bwsk_jax.reversible_scan", f, ())
    with state_explained("bwsk_jax.reversible_scan"):
        scan, closed_over = trace_body(f, init, xs, length, reverse=reverse, unroll=unroll)
        rules = _ReversibleScan.of(scan, save_every, followed, invert, reverse, _at_once(unroll, scan.length))
        inputs = (scan.constants(closed_over), _cast_to_carry(scan, init), jax.tree.leaves(xs))
        carry, ys = rules.differentiable()(*inputs)
    return jax.tree.unflatten(scan.out_tree, map(cast_like, (*carry, *ys), scan.out_avals))


def _at_once(unroll: int | bool, length: int) -> int:
    """How many iterations are one of the compiled loop; True is all of them."""
    return (max(1, length) if unroll else 1) if isinstance(unroll, bool) else unroll


def _cast_to_carry(scan: ScanBody, init: Any) -> list[Any]:
    carry_avals, _ = scan.split_outputs(scan.out_avals)
    leaves = jax.tree.leaves(init)
    return [cast_like(jnp.asarray(a), without_weak_type(t)) for a, t in zip(leaves, carry_avals, strict=True)]


def _scan_by_policy(policy, save_every, f, *args):
    if save_every is not None:
        raise ValueError("save_every goes with a plan or a limit: a policy keeps the carry each time")
    return lax.scan(jax.checkpoint(f, policy=policy, prevent_cse=False), *args)


@dataclasses.dataclass(frozen=True, eq=False)
class _ReversibleScan:
    """A scan over flat lists with the rules of its derivative with respect to some of its inputs.

    It holds no tracers: JAX keeps rules for longer than those live.
    """

    scan: ScanBody
    save_every: int | None
    wanted: Limit | PortablePlan
    invert: bool
    reverse: bool
    unroll: int
    derivatives: dict[tuple[bool, ...], _ReversibleScan] = dataclasses.field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, scan: ScanBody, *options: Any) -> _ReversibleScan:
        """The same each time for the same body and the same other attributes."""
        key = *options, registered_rules(), device()
        if key not in scan.rules:
            scan.rules[key] = cls(scan, *options)
        return scan.rules[key]

    @functools.cached_property
    def segments(self) -> Segments:
        return Segments.of(self.scan.length, self.save_every, self.reverse, self.unroll)

    @functools.cached_property
    def plan(self) -> Plan:
        length = longest_stretch(self.scan.length, self.save_every)
        return plan_for(scan_problems(self.scan, length, invert=self.invert), self.wanted)

    @property
    def _handed(self) -> tuple[int, ...]:
        """The places of the carry's leaves that the way back hands on from iteration to iteration."""
        assert self.plan.problem.handed is not None, "the problem is that of a scan"
        return self.plan.problem.handed

    def _handed_of(self, leaves: Sequence[Item]) -> list[Item]:
        """Those of the leaves of a carry that are handed on."""
        return [leaves[k] for k in self._handed]

    def differentiable(self) -> Callable[[Sequence[Any], Sequence[Any], Sequence[Any]], Any]:
        """The scan as a function of (constants, init, xs)."""
        return with_rules("bwsk_jax.reversible_scan", self.primal, self.derivative)

    def derivative(self, varied: tuple[bool, ...]) -> _ReversibleScan:
        """The rules with respect to these inputs. A plan that was given is for all of them."""
        if not isinstance(self.wanted, Limit):
            return self
        if varied not in self.derivatives:
            scan = self.scan.differentiated(varied)
            same = scan is self.scan
            self.derivatives[varied] = self if same else dataclasses.replace(self, scan=scan, derivatives={})
        return self.derivatives[varied]

    @compiled_once
    def primal(self, consts, init, xs):
        return self._scan(self._step(self.scan.program, consts, self.scan.program.outputs), init, xs)

    def _scan(self, step, init, xs):
        return lax.scan(step, init, xs, length=self.scan.length, reverse=self.reverse, unroll=self.unroll)

    def _step(self, program: Program, consts: Sequence[Any], outputs: Sequence[int | Literal]) -> Callable:
        """The body of a scan that gives the program's `outputs`, the carry first."""

        def step(carry, x):
            return self.scan.split_outputs(program.evaluate([*consts, *carry, *x], outputs))

        return step

    @compiled_once(untraced=without_floats)
    def forward(self, consts, init, xs):
        if self._is_by_checkpoint:
            return self._checkpointed(consts, init, xs)
        vjp, plan = self.scan.vjp, self.plan
        num_ys = vjp.num_outputs - self.scan.num_carry
        evaluate = self._step(vjp.program, consts, (*vjp.outputs, *reads_to_keep(plan)))

        def step(carry, x):
            carry, outs = evaluate(carry, x)
            return carry, (outs[:num_ys], *keep(plan, outs[num_ys:]))

        ends, last, (ys, saved, found) = self.segments.run(step, init, xs, self._handed)
        carries = KeptCarries(self._alarm.start(self._handed_of(init)), ends, self._handed_of(last))
        return (last, ys), (consts, xs, carries, saved, trusted(plan, found))

    @functools.cached_property
    def _is_by_checkpoint(self) -> bool:
        """Whether `jax.checkpoint` itself runs the plan. It keeps a carry that the compiler would widen."""
        avals = self.plan.problem.program.avals
        return self.plan.is_checkpoint and not any(is_widened(avals[v]) for v in self.plan.saved)

    def _checkpointed(self, consts, init, xs):
        """What `jax.checkpoint` does in a scan, by itself: JAX and XLA know it better than a copy of it."""
        vjp = self.scan.vjp
        varied, fixed = split(vjp.varied_inputs, (*consts, *init, *xs))

        def run(*varied):
            consts, init, xs = self.scan.split_inputs(merge(vjp.varied_inputs, varied, fixed))
            step = self._step(self.scan.program, consts, self.scan.program.outputs)
            step = jax.checkpoint(step, prevent_cse=self._needs_barrier)
            carry, ys = self._scan(step, init, xs)
            return split(vjp.varied_outputs, (*carry, *ys))

        outputs, linear, others = jax.linearize(run, *varied, has_aux=True)
        return self.scan.split_outputs(merge(vjp.varied_outputs, outputs, others)), (varied, linear)

    def _checkpointed_back(self, kept, cotangents):
        """The cotangents of the inputs that vary. What only results without a cotangent read is not run."""
        varied, linear = kept
        given = [ct is not None for ct in cotangents]
        transposed = jax.linear_transpose(lambda *inputs: split(given, linear(*inputs))[0], *varied)
        return list(transposed([ct for ct in cotangents if ct is not None]))

    @property
    def _needs_barrier(self) -> bool:
        """Whether XLA is to be kept from merging the replay with the forward pass.

        Two loops it does not merge anyway. There the barrier lets a CPU pack buffers better, and costs a TPU
        up to a fifth of the temporaries and a twentieth of the time.
        """
        return self.segments.has_no_loop or platform() == "cpu"

    def backward(self, kept, cotangents):
        vjp = self.scan.vjp
        carry_mask, ys_mask = self.scan.split_outputs(vjp.varied_outputs)
        ct_last, _ = split(carry_mask, cotangents[0])
        ct_ys, _ = split(ys_mask, cotangents[1])
        pulled, drift = self._run_back(kept, ct_last, ct_ys)
        if self._alarm.leaves:
            warn_if_lost(drift)
            pulled = spoiled(drift, pulled)
        reached = self.scan.reached([ct is not None for ct in ct_last], [ct is not None for ct in ct_ys])
        pulled = [ct if is_reached else None for ct, is_reached in zip(pulled, reached, strict=True)]
        return tuple(self.scan.split_inputs(with_fill(vjp.varied_inputs, pulled, None)))

    @compiled_once
    def _run_back(self, kept, ct_last, ct_ys):
        """The cotangents of the differentiable inputs, and how far the carry drifted."""
        avals, _ = split(self.scan.vjp.varied_outputs, self.scan.out_avals)
        if self._is_by_checkpoint:
            return self._checkpointed_back(kept, [*ct_last, *ct_ys]), 0.0
        consts, xs, carries, saved, is_trusted = kept
        consts_mask, _, _ = self.scan.split_inputs(self.scan.vjp.varied_inputs)
        varied, _ = split(consts_mask, consts)
        fed = self.scan.fed([ct is not None for ct in ct_last], [ct is not None for ct in ct_ys])
        filled_last = filled(ct_last, avals[: len(ct_last)])
        ct_last = [ct if is_fed else None for ct, is_fed in zip(filled_last, fed, strict=True)]
        state = ct_last, [jnp.zeros_like(c) for c in varied]
        (ct_init, ct_consts), ct_xs, drift = self.segments.run_back(
            self._reverse_step(consts), state, carries, (xs, saved, is_trusted, ct_ys), self._alarm
        )
        return [*ct_consts, *ct_init, *ct_xs], drift

    def _reverse_step(self, consts: Sequence[Any]) -> Callable:
        """One iteration backwards: (carry-out, its cotangent, ...) -> (carry-in, its cotangent, ...).

        What has no cotangent in the carry-out has none in the carry-in.
        """
        scan, vjp, plan = self.scan, self.scan.vjp, self.plan
        consts_in, carry_in, x_in = scan.split_inputs(vjp.program.inputs)
        consts_mask, carry_mask, x_mask = scan.split_inputs(vjp.varied_inputs)

        def step(state, slices):
            carry_out, (ct_carry_out, ct_consts) = state
            x, saved, is_trusted, ct_y = slices
            inputs = consts, carry_out, x, saved
            fixed, carry_out, x, saved = barrier(inputs) if self._needs_barrier else inputs
            outs = zip(self._handed_of(vjp.outputs), carry_out, strict=True)
            known = dict(zip(consts_in, fixed, strict=True)) | dict(zip(x_in, x, strict=True))
            known |= kept_values(plan, saved) | {v: a for v, a in outs if not isinstance(v, Literal)}
            pulled, environment = pull_back(vjp, plan, known, is_trusted, [*ct_carry_out, *ct_y])
            pulled_consts, pulled_carry, pulled_x = scan.split_inputs(pulled)
            more, _ = split(consts_mask, pulled_consts)
            ct_carry, _ = split(carry_mask, pulled_carry)
            ct_carry = [None if out is None else ct for out, ct in zip(ct_carry_out, ct_carry, strict=True)]
            ct_x, _ = split(x_mask, pulled_x)
            ct_consts = [a + b for a, b in zip(ct_consts, more, strict=True)]
            carry = [environment[v] for v in self._handed_of(carry_in)]
            return (carry, (ct_carry, ct_consts)), ct_x

        return step

    @functools.cached_property
    def _alarm(self) -> DriftAlarm:
        """Watches those of the leaves that are handed on which the plan recovers with rounding."""
        plan = self.plan
        _, carry_in, _ = self.scan.split_inputs(plan.problem.program.inputs)
        leaves = tuple(k for k, v in enumerate(self._handed_of(carry_in)) if v in plan.inexact)
        return DriftAlarm(leaves, _coarsest_rounding(plan))


def _coarsest_rounding(plan: Plan) -> float:
    """The largest epsilon among the types that the carry is recovered in."""
    needed = set(plan.problem.carry_in)
    for step in reversed(plan.steps):
        if needed.intersection(step.writes):
            needed.update(step.reads)
    types = (plan.problem.program.avals[v] for v in needed)
    return max((float(jnp.finfo(t.dtype).eps) for t in types if is_differentiable(t)), default=0.0)
