"""`reversible_scan`: sibling of `jax.lax.scan` whose backward pass inverts.

The scan itself is the unit: one `jax.custom_vjp` around the forward scan, and a reverse scan that carries the
recovered activation beside its cotangent. (A `custom_vjp` per layer inside an ordinary scan would still stack
every layer's output.)
"""

from __future__ import annotations

import dataclasses
import functools
import numbers
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Literal

from bwsk_jax.engine.execute.drift import measure, report
from bwsk_jax.engine.execute.named_axes import within_axes
from bwsk_jax.engine.execute.reversible import forward_mode_explained, pull_back
from bwsk_jax.engine.plan.api import ScanBody, solved, trace_body
from bwsk_jax.engine.plan.milp import Limit
from bwsk_jax.engine.plan.solver import Plan
from bwsk_jax.engine.program.types import strong, typed_as
from bwsk_jax.engine.program.vjp import split

__all__ = ["reversible_scan"]


def reversible_scan(
    body: Callable,
    init: Any,
    xs: Any,
    length: int | None = None,
    *,
    max_overhead: float | None = None,
    max_bytes: int | None = None,
    save_every: int | None = None,
    invert: bool = True,
) -> tuple[Any, Any]:
    """`jax.lax.scan` whose backward pass recovers each iteration from the one after it.

    Computes what `lax.scan(body, init, xs, length)` computes and differentiates what it differentiates,
    closed-over values included, keeping per iteration only what the plan saves. Each carry is recovered from
    the next, so rounding can build up: at the end the recovered `init` is compared with the true one, and a
    difference of more than half the digits is reported as `ReconstructionWarning`.

    Args:
      body, init, xs, length: as for `jax.lax.scan`.
      max_overhead, max_bytes, invert: as for `plan`; bytes are counted per iteration.
      save_every: keep the carry every so many iterations and start afresh from it, which ends any drift.

    Returns:
      `(carry, ys)`, as `jax.lax.scan` does.

    Raises:
      TypeError: as `jax.lax.scan` does, and for forward-mode differentiation.
      PlanError: `max_bytes` is below the least possible.

    >>> import bwsk_jax, jax, jax.numpy as jnp
    >>> weights = jnp.linspace(-0.1, 0.1, 6 * 8 * 8).reshape(6, 8, 8)
    >>> def coupling(carry, w):
    ...     a = carry[0] + jnp.tanh(carry[1] @ w)
    ...     return (a, carry[1] + jnp.tanh(a @ w)), None
    >>> def loss(scan, weights):
    ...     (a, b), _ = scan(coupling, (jnp.ones((2, 8)), jnp.ones((2, 8))), weights)
    ...     return (a * b).sum()
    >>> ours = jax.grad(lambda w: loss(bwsk_jax.reversible_scan, w))(weights)
    >>> plain = jax.grad(lambda w: loss(jax.lax.scan, w))(weights)
    >>> bool(jnp.allclose(ours, plain, atol=1e-4))
    True
    """
    limit = Limit(max_overhead, max_bytes)
    if save_every is not None and not isinstance(save_every, numbers.Integral):
        raise TypeError(f"save_every must be an integer, got {save_every!r}")
    if save_every is not None and save_every < 1:
        raise ValueError(f"save_every must be at least 1, got {save_every}")
    scan, consts = trace_body(body, init, xs, length)
    init_leaves = [
        typed_as(jnp.asarray(leaf), strong(aval))
        for leaf, aval in zip(jax.tree.leaves(init), scan.out_avals[: scan.num_carry], strict=True)
    ]
    with forward_mode_explained("bwsk_jax.reversible_scan"):
        segments = _Segments.of(scan.length, save_every)
        call = _differentiable_scan(scan, segments, limit, invert)
        carry, ys = call(consts, init_leaves, jax.tree.leaves(xs))
    return jax.tree.unflatten(scan.out_tree, map(typed_as, (*carry, *ys), scan.out_avals))


def _differentiable_scan(scan: ScanBody, segments: _Segments, limit: Limit, invert: bool) -> Callable:
    """The scan over flat lists with its reverse rule."""

    @functools.cache
    def planned() -> Plan:
        return solved(scan.problem(segments.longest, invert), limit)

    def step_of(program, consts, outputs):
        def step(carry, x):
            values = program.evaluate([*consts, *carry, *x], outputs)
            return values[: scan.num_carry], values[scan.num_carry :]

        return step

    @jax.custom_vjp
    def call(consts, init, xs):
        return lax.scan(step_of(scan.program, consts, scan.program.outputs), init, xs, length=scan.length)

    def forward(consts, init, xs):
        vjp, plan = scan.vjp, planned()
        step = step_of(vjp.program, consts, (*vjp.outputs, *plan.saved))
        ends, last, outs = segments.run(step, init, xs)
        num_ys = vjp.num_outputs - scan.num_carry
        starts = [init[k] for k in _drifting(scan, plan)]
        return (last, outs[:num_ys]), (consts, xs, starts, ends, last, outs[num_ys:])

    def backward(kept, cotangents):
        consts, xs, starts, ends, last, saved = kept
        ct_last, ct_ys = (
            split(mask, cts)[0] for mask, cts in zip(scan.differentiable_outputs, cotangents, strict=True)
        )
        varied, _ = split(scan.vjp.differentiable_inputs[: len(consts)], consts)
        state = ct_last, [jnp.zeros_like(c) for c in varied]
        step, drifting = _reverse_step(scan, planned(), consts), _drifting(scan, planned())
        (ct_init, ct_consts), ct_xs, drift = segments.run_back(
            step, state, starts, ends, last, (xs, saved, ct_ys), drifting, _coarsest_rounding(planned())
        )
        if starts:
            report(drift)
        fill = iter((*ct_consts, *ct_init, *ct_xs))
        mask = iter(scan.vjp.differentiable_inputs)
        return tuple([next(fill) if next(mask) else None for _ in group] for group in (consts, last, xs))

    call.defvjp(*within_axes(forward, backward))
    return call


def _reverse_step(scan: ScanBody, plan: Plan, consts: list[Any]) -> Callable:
    """One iteration backwards: (carry-out, its cotangent, ...) -> (carry-in, its cotangent, ...)."""
    vjp, num_consts, num_carry = scan.vjp, scan.num_consts, scan.num_carry
    inputs = vjp.program.inputs
    carry_in, x_in = inputs[num_consts : num_consts + num_carry], inputs[num_consts + num_carry :]
    consts_mask = vjp.differentiable_inputs[:num_consts]
    carry_mask = vjp.differentiable_inputs[num_consts : num_consts + num_carry]

    def step(state, slices):
        carry_out, (ct_carry, ct_consts) = state
        x, saved, ct_y = slices
        outs = ((v, a) for v, a in zip(vjp.outputs, carry_out, strict=False) if not isinstance(v, Literal))
        known = dict(zip(inputs[:num_consts], consts, strict=True)) | dict(zip(x_in, x, strict=True))
        known |= dict(zip(plan.saved, saved, strict=True)) | dict(outs)
        pulled, environment = pull_back(vjp, plan, known, [*ct_carry, *ct_y])
        groups = (
            pulled[:num_consts],
            pulled[num_consts : num_consts + num_carry],
            pulled[num_consts + num_carry :],
        )
        more, _ = split(consts_mask, groups[0])
        ct_carry, _ = split(carry_mask, groups[1])
        ct_x = [g for g in groups[2] if g is not None]
        ct_consts = [a + b for a, b in zip(ct_consts, more, strict=True)]
        return ([environment[v] for v in carry_in], (ct_carry, ct_consts)), ct_x

    return step


@dataclasses.dataclass(frozen=True)
class _Segments:
    """A scan as `count` segments of `size` iterations and a last one of `rest`; each ends in a kept carry."""

    count: int
    size: int
    rest: int

    @classmethod
    def of(cls, length: int, size: int | None) -> _Segments:
        if size is None or size >= length:
            return cls(0, 1, length)
        return cls((length - 1) // size, size, (length - 1) % size + 1)

    @property
    def longest(self) -> int:
        return max(self.size, self.rest)

    def cut(self, stacked: Any) -> tuple[Any, Any]:
        """(full segments with two leading axes, the rest with one)."""
        n = self.count * self.size
        full = jax.tree.map(lambda a: a[:n].reshape(self.count, self.size, *a.shape[1:]), stacked)
        return full, jax.tree.map(lambda a: a[n:], stacked)

    def join(self, full: Any, rest: Any) -> Any:
        """Undo `cut`."""
        return jax.tree.map(lambda a, b: lax.concatenate([lax.collapse(a, 0, 2), b], 0), full, rest)

    def run(self, step: Callable, init: Any, xs: Any) -> tuple[Any, Any, Any]:
        """(the carry at the end of each full segment, the last carry, stacked outputs)."""
        if not self.count:
            return [], *lax.scan(step, init, xs, length=self.rest)

        def segment(carry, xs):
            carry, outs = lax.scan(step, carry, xs, length=self.size)
            return carry, (carry, outs)

        full, rest = self.cut(xs)
        carry, (ends, outs) = lax.scan(segment, init, full, length=self.count)
        last, tail = lax.scan(step, carry, rest, length=self.rest)
        return ends, last, self.join(outs, tail)

    def run_back(
        self,
        step: Callable,
        state: Any,
        starts: Any,
        ends: Any,
        last: Any,
        stacked: Any,
        drifting: Sequence[int],
        rounding: float,
    ):
        """(cotangent state at the start, stacked cotangents, how far the recovered carries drifted)."""

        def segment(state, start, end, stacked, size):
            (carry, state), outs = lax.scan(step, (end, state), stacked, length=size, reverse=True)
            leaves = [(carry[k], a, end[k]) for k, a in zip(drifting, start, strict=True)]
            return state, outs, measure(leaves, rounding)

        if not self.count:
            return segment(state, starts, last, stacked, self.rest)
        full, rest = self.cut(stacked)
        kept = [ends[k] for k in drifting]
        state, tail, drift = segment(state, [a[-1] for a in kept], last, rest, self.rest)
        starts = [jnp.concatenate([a[None], b[:-1]]) for a, b in zip(starts, kept, strict=True)]

        def back(state, slices):
            state, outs, drift = segment(state, *slices, self.size)
            return state, (outs, drift)

        state, (outs, drifts) = lax.scan(back, state, (starts, ends, full), reverse=True)
        return state, self.join(outs, tail), jnp.maximum(drift, drifts.max())


def _drifting(scan: ScanBody, plan: Plan) -> list[int]:
    """The carry leaves that the plan recovers with rounding."""
    first = scan.num_consts
    carry_in = plan.problem.program.inputs[first : first + scan.num_carry]
    return [k for k, v in enumerate(carry_in) if v in plan.inexact]


def _coarsest_rounding(plan: Plan) -> float:
    """The largest epsilon among the types that the carry is recovered in."""
    needed = set(plan.problem.carry_in)
    for step in reversed(plan.steps):
        if needed.intersection(step.writes):
            needed.update(step.reads)
    types = (plan.problem.program.avals[v].dtype for v in needed if plan.problem.float_size(v))
    return max((float(jnp.finfo(dtype).eps) for dtype in types), default=0.0)
