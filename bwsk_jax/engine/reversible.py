"""`reversible` and `reversible_scan`: siblings of `jax.checkpoint` and `jax.lax.scan` whose backward pass
inverts.

For a stack of layers the scan itself is the unit: one `jax.custom_vjp` around the forward scan, and a reverse
scan that carries the recovered activation beside its cotangent. (A `custom_vjp` per layer inside an ordinary
scan would still stack every layer's output.)
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Literal

from bwsk_jax.engine.jaxprs import Program, VjpTrace, merge, read, split, struct, trace, trace_vjp
from bwsk_jax.engine.planner import Limit, Plan, solve
from bwsk_jax.engine.problem import Problem, call_problem, scan_problem
from bwsk_jax.engine.recovery import largest, recover

__all__ = ["ReconstructionWarning", "frontier", "plan", "plan_scan", "reversible", "reversible_scan"]


class ReconstructionWarning(UserWarning):
    """A reverse scan ended far from the carry it should have recovered: its gradients may be off."""


# --- planning ----------------------------------------------------------------------------------------------


def plan(
    fun: Callable,
    *args: Any,
    max_overhead: float | None = None,
    max_bytes: int | None = None,
    invert: bool = True,
) -> Plan:
    """The plan that `reversible(fun)` follows for arguments of these shapes.

    Args:
      fun: a differentiable function of pytrees of arrays.
      *args: arrays or `jax.ShapeDtypeStruct`s.
      max_overhead: recomputation allowed, as a fraction of the FLOPs of one forward and backward pass.
        Infinity asks for the least memory.
      max_bytes: bytes that may be saved per call. At most one of the two; neither means `max_overhead=0.03`.
      invert: whether inverses may be used; without them the plan is the best that replaying alone can do.

    Raises:
      PlanError: `max_bytes` is below the least possible, which the message names.

    >>> import jax, jax.numpy as jnp
    >>> x = jax.ShapeDtypeStruct((8, 16), jnp.float32)
    >>> found = bwsk_jax.plan(lambda x: jnp.sin(jnp.exp(x)).sum(), x, max_overhead=float("inf"))
    >>> found.saved_bytes, found.residual_bytes
    (0, 1024)
    """
    limit = Limit(max_overhead, max_bytes)
    leaves, tree = jax.tree.flatten(args)
    program, _, _ = trace(lambda *leaves: fun(*jax.tree.unflatten(tree, leaves)), *leaves)
    return _solved(call_problem(trace_vjp(program), invert=invert), limit)


def plan_scan(
    body: Callable,
    carry: Any,
    x: Any,
    *,
    max_overhead: float | None = None,
    max_bytes: int | None = None,
    length: int = 1,
    invert: bool = True,
) -> Plan:
    """The plan that `reversible_scan` follows for one iteration of `body`.

    Args:
      body: `(carry, x) -> (carry, y)`, as for `jax.lax.scan`.
      carry, x: arrays or `jax.ShapeDtypeStruct`s; `x` is what one iteration sees, without the leading axis.
      max_overhead, max_bytes, invert: as for `plan`; bytes are counted per iteration.
      length: iterations over which errors may grow. Inverses that would amplify rounding too far in that many
        are not used.

    >>> import jax, jax.numpy as jnp
    >>> half = jax.ShapeDtypeStruct((4, 64), jnp.float32)
    >>> weights = jax.ShapeDtypeStruct((2, 64, 64), jnp.float32)
    >>> def coupling(carry, w):
    ...     a = carry[0] + jnp.tanh(carry[1] @ w[0])
    ...     return (a, carry[1] + jnp.tanh(a @ w[1])), None
    >>> found = bwsk_jax.plan_scan(coupling, (half, half), weights, max_overhead=float("inf"))
    >>> found.saved_bytes, found.inverted > 0
    (0, True)
    """
    limit = Limit(max_overhead, max_bytes)
    scan = _trace_one(body, carry, x)
    return _solved(scan.problem(length, invert), limit)


def frontier(
    body: Callable, carry: Any, x: Any, *, length: int = 1, invert: bool = True, points: int = 8
) -> list[Plan]:
    """The plans of one scan iteration from least memory to no recomputation, each a best one.

    At most `points` distinct plans, at limits spaced evenly in the logarithm of the recomputation. Along the
    list `saved_bytes` grows and `overhead` shrinks.

    >>> import jax, jax.numpy as jnp
    >>> x = jax.ShapeDtypeStruct((4, 64), jnp.float32)
    >>> w = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    >>> plans = bwsk_jax.frontier(lambda c, w: (jnp.tanh(c @ w) @ w.T, None), x, w)
    >>> [p.saved_bytes for p in plans] == sorted(p.saved_bytes for p in plans)
    True
    """
    problem = _trace_one(body, carry, x).problem(length, invert)
    found = [_solved(problem, Limit(max_overhead=math.inf))]
    most = found[0].overhead
    limits = [most * 2.0**-k for k in range(1, points - 1)] if most > 0 else []
    for limit in (*limits, 0.0):
        if limit < found[-1].overhead:
            found.append(_solved(problem, Limit(max_overhead=limit)))
    return found


_SOLVED: collections.OrderedDict[tuple, tuple] = collections.OrderedDict()
_SOLVED_MOST = 256


def _solved(problem: Problem, limit: Limit) -> Plan:
    """`solve`, remembered: the same problem and limit always get the same plan."""
    key = (problem.program.fingerprint(), problem.free, problem.targets, problem.steps, problem.length, limit)
    if key not in _SOLVED:
        found = solve(problem, limit)
        _SOLVED[key] = (found.saved, found.steps, found.fallback, found.gap)
        while len(_SOLVED) > _SOLVED_MOST:
            _SOLVED.popitem(last=False)
    return Plan(problem, *_SOLVED[key])


# --- a call ------------------------------------------------------------------------------------------------


def reversible(
    fun: Callable, *, max_overhead: float | None = None, max_bytes: int | None = None, invert: bool = True
) -> Callable:
    """`fun` with a backward pass that saves, inverts or replays each value by plan; sibling of
    `jax.checkpoint`.

    It is for blocks: around a whole network it cannot lower the peak. The arguments are kept, as
    `jax.checkpoint` keeps them; everything else by plan. `jax.grad`, `vmap` and `jit` compose with it;
    forward-mode differentiation raises `TypeError`.

    Args:
      fun: a differentiable function of pytrees of arrays. What it closes over is differentiated too.
      max_overhead, max_bytes, invert: as for `plan`.

    >>> import jax, jax.numpy as jnp
    >>> f = lambda x: jnp.sin(jnp.exp(x)).sum()
    >>> x = jnp.linspace(0.0, 1.0, 5)
    >>> bool(jnp.allclose(jax.grad(bwsk_jax.reversible(f))(x), jax.grad(f)(x)))
    True
    """
    limit = Limit(max_overhead, max_bytes)

    @functools.wraps(fun)
    def wrapped(*args, **kwargs):
        leaves, tree = jax.tree.flatten((args, kwargs))

        def flat(*leaves):
            args, kwargs = jax.tree.unflatten(tree, leaves)
            return fun(*args, **kwargs)

        program, consts, out_tree = trace(flat, *leaves)

        @functools.cache
        def planned() -> tuple[VjpTrace, Plan]:
            vjp = trace_vjp(program)
            return vjp, _solved(call_problem(vjp, invert=invert), limit)

        @jax.custom_vjp
        def call(inputs):
            return program.evaluate(inputs, program.outputs)

        def forward(inputs):
            vjp, plan = planned()
            values = vjp.program.evaluate(inputs, (*vjp.outputs, *plan.saved))
            return values[: vjp.num_outputs], (inputs, values[vjp.num_outputs :])

        def backward(kept, cotangents):
            vjp, plan = planned()
            inputs, saved = lax.optimization_barrier(kept)  # or XLA merges the replay with the forward pass
            known = dict(zip(vjp.program.inputs, inputs, strict=True)) | dict(
                zip(plan.saved, saved, strict=True)
            )
            varied, _ = split(vjp.differentiable_outputs, cotangents)
            return (_pull_back(vjp, plan, known, varied)[0],)

        call.defvjp(forward, backward)
        with _forward_mode_explained("bwsk_jax.reversible"):
            return jax.tree.unflatten(out_tree, call([*consts, *leaves]))

    return wrapped


def _pull_back(vjp: VjpTrace, plan: Plan, known: dict[int, Any], cotangents: list[Any]):
    """(cotangent of each input, None where it has none; the environment with all that was recovered), from
    the cotangents of the differentiable outputs."""
    environment = dict(plan.problem.program.constants) | known
    environment.update(recover(plan, known))
    residuals = [read(environment, v) for v in vjp.residuals]
    pulled = vjp.pullback(residuals)(cotangents)
    missing = [None] * vjp.differentiable_inputs.count(False)
    return merge(vjp.differentiable_inputs, pulled, missing), environment


@contextlib.contextmanager
def _forward_mode_explained(name: str):
    try:
        yield
    except TypeError as error:
        if "forward-mode" not in str(error) or "custom_vjp" not in str(error):
            raise
        raise TypeError(
            f"{name} has no forward-mode derivative (jvp, jacfwd, hessian): its rule inverts on the way "
            "back, and going forward there is nothing to save. Use jax.grad, jax.vjp or jax.jacrev, or the "
            "plain function."
        ) from error


# --- a scan ------------------------------------------------------------------------------------------------


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

    >>> import jax, jax.numpy as jnp
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
    if save_every is not None and save_every < 1:
        raise ValueError(f"save_every must be at least 1, got {save_every}")
    scan = _trace_body(body, init, xs, length)
    init_leaves = [
        _as(leaf, aval) for leaf, aval in zip(jax.tree.leaves(init), scan.carry_avals, strict=True)
    ]
    with _forward_mode_explained("bwsk_jax.reversible_scan"):
        segments = _Segments.of(scan.length, save_every)
        carry, ys = _differentiable_scan(scan, segments, limit, invert)(
            scan.consts, init_leaves, jax.tree.leaves(xs)
        )
    return jax.tree.unflatten(scan.out_tree, (*carry, *ys))


@dataclasses.dataclass(frozen=True, eq=False)
class _Body:
    """A scan body as a program of (constants, carry, x) -> (carry, y), all flat."""

    program: Program
    consts: list[Any]
    out_tree: Any
    carry_avals: list[Any]
    length: int

    @property
    def num_carry(self) -> int:
        return len(self.carry_avals)

    @property
    def differentiable_outputs(self) -> tuple[Sequence[bool], Sequence[bool]]:
        """Of the carry and of the outputs per iteration."""
        mask = self.vjp.differentiable_outputs
        return mask[: self.num_carry], mask[self.num_carry :]

    @functools.cached_property
    def vjp(self) -> VjpTrace:
        return trace_vjp(self.program)

    def problem(self, length: int, invert: bool) -> Problem:
        return scan_problem(self.vjp, len(self.consts), self.num_carry, length, invert=invert)


def _trace_body(body: Callable, init: Any, xs: Any, length: int | None) -> _Body:
    """Check the body as `lax.scan` does, by its own means and with its own messages, then trace it."""
    carry, _ = jax.eval_shape(functools.partial(lax.scan, body, length=length), init, xs)
    carry_avals, carry_tree = jax.tree.flatten(carry)
    x_leaves, x_tree = jax.tree.flatten(xs)
    x_avals = [struct(x, x.shape[1:]) for x in map(_typed, x_leaves)]
    strong = list(map(struct, carry_avals))

    def flat(*leaves):
        carry = jax.tree.unflatten(carry_tree, leaves[: len(strong)])
        return body(carry, jax.tree.unflatten(x_tree, leaves[len(strong) :]))

    program, consts, out_tree = trace(flat, *strong, *x_avals)
    lengths = [_typed(x).shape[0] for x in x_leaves]
    return _Body(program, consts, out_tree, strong, lengths[0] if length is None else length)


def _trace_one(body: Callable, carry: Any, x: Any) -> _Body:
    stacked = jax.tree.map(lambda a: struct(_typed(a), (1, *_typed(a).shape)), x)
    return _trace_body(body, carry, stacked, 1)


def _typed(x: Any) -> Any:
    return x if isinstance(x, jax.ShapeDtypeStruct) else jax.typeof(x)


def _as(leaf: Any, aval: Any) -> Any:
    """The leaf with the type that the carry settles on: Python scalars lose their weak type."""
    leaf = jnp.asarray(leaf)
    if jnp.issubdtype(aval.dtype, jax.dtypes.extended):
        return leaf
    return lax.convert_element_type(leaf, aval.dtype)


def _differentiable_scan(scan: _Body, segments: _Segments, limit: Limit, invert: bool) -> Callable:
    """The scan over flat lists with its reverse rule."""

    @functools.cache
    def planned() -> Plan:
        return _solved(scan.problem(segments.longest, invert), limit)

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
        step = _reverse_step(scan, planned(), consts)
        (ct_init, ct_consts), ct_xs, drift = segments.run_back(
            step, state, starts, ends, last, (xs, saved, ct_ys), _drifting(scan, planned())
        )
        if starts:
            _report(drift)
        fill = iter((*ct_consts, *ct_init, *ct_xs))
        mask = iter(scan.vjp.differentiable_inputs)
        return tuple([next(fill) if next(mask) else None for _ in group] for group in (consts, last, xs))

    call.defvjp(forward, backward)
    return call


def _reverse_step(scan: _Body, plan: Plan, consts: list[Any]) -> Callable:
    """One iteration backwards: (carry-out, its cotangent, ...) -> (carry-in, its cotangent, ...)."""
    vjp, num_consts, num_carry = scan.vjp, len(scan.consts), scan.num_carry
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
        pulled, environment = _pull_back(vjp, plan, known, [*ct_carry, *ct_y])
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
    """A scan as `count` segments of `size` iterations and one last of `rest`; each ends in a carry that is
    kept."""

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
    ):
        """(cotangent state at the start, stacked cotangents, how far the recovered carries drifted)."""

        def segment(state, start, end, stacked, size):
            (carry, state), outs = lax.scan(step, (end, state), stacked, length=size, reverse=True)
            return state, outs, _drift([(carry[k], a, end[k]) for k, a in zip(drifting, start, strict=True)])

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


# --- drift -------------------------------------------------------------------------------------------------


def _drifting(scan: _Body, plan: Plan) -> list[int]:
    """The carry leaves that the plan recovers with rounding."""
    first = len(scan.consts)
    carry_in = plan.problem.program.inputs[first : first + scan.num_carry]
    return [k for k, v in enumerate(carry_in) if v in plan.inexact]


def _drift(leaves: Sequence[tuple[Any, Any, Any]]):
    """The largest relative distance of (recovered start, true start, end), in units of what is tolerated.

    Half of the digits are. A start that is all 0, as a velocity's often is, is measured by the other starts,
    or by its end where those are 0 as well.
    """
    starts = [_norm(true) for _, true, _ in leaves]
    anything = functools.reduce(jnp.maximum, starts, jnp.zeros((), jnp.float32))
    worst = jnp.zeros((), jnp.float32)
    for own, (recovered, true, end) in zip(starts, leaves, strict=True):
        scale = jnp.where(own > 0, own, jnp.where(anything > 0, anything, _norm(end)))
        tolerance = float(jnp.finfo(true.dtype).eps) ** 0.5
        distance = _norm(recovered - true)
        lost = ~(distance <= tolerance * scale) & jnp.isfinite(own)  # also where the distance is not finite
        worst = jnp.maximum(worst, jnp.where(lost, jnp.nan_to_num(distance / scale) / tolerance + 1, 0))
    return worst


def _norm(x: Any):
    """The Euclidean norm, in float32 at least."""
    magnitude = jnp.abs(x)
    return jnp.linalg.norm(
        magnitude.astype(jnp.promote_types(magnitude.dtype, jnp.float32)).reshape(-1)
    ).astype(jnp.float32)


def _report(drift: Any) -> None:
    """Warn at run time if a carry was lost."""
    drift = largest(lax.stop_gradient(drift))
    lax.cond(drift > 0, lambda d: jax.debug.callback(_warn, d), lambda d: None, drift)


def _warn(drift: Any) -> None:
    warnings.warn(
        f"a reverse scan recovered its carry {float(drift):.3g} times less accurately than half of its "
        "digits: gradients through it may be off. Pass save_every=k to start afresh every k iterations, a "
        "smaller max_overhead or larger max_bytes to save more, or use a wider type for the carry.",
        ReconstructionWarning,
        stacklevel=2,
    )
