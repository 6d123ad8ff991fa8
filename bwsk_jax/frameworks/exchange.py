"""Exchange what a framework's own transformation runs: its block, or its loop.

Both take a function without arguments. Whatever it closes over is found when it is traced: arrays become
inputs that are differentiated, and all else, such as `train=True`, stays what it is.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend.core import primitives as p

from bwsk_jax.engine.execute.reversible_scan import reversible_scan
from bwsk_jax.engine.plan.api import check_save_every, wanted
from bwsk_jax.engine.program.jaxprs import Equation, aval_of, subprograms, trace

__all__ = ["Run", "loops_reversible", "refuse", "split_limits"]

Run = Callable[[Callable[[], Any]], Callable[[], Any]]
"""Transforms a function without arguments."""

_LIMITS = inspect.Signature(
    [q for q in inspect.signature(reversible_scan).parameters.values() if q.kind is q.KEYWORD_ONLY]
)
_OF_A_PLAN = ("max_overhead", "max_bytes", "save_names", "replay_names")
_REASONS = {
    "prevent_cse": "a barrier stands wherever XLA would merge the replay with the forward pass",
    "policy": "a plan takes its place; to compare with the policy, give it as plan=",
    "_split_transpose": "the way back is no transposed scan",
}


def refuse(name: str, arguments: dict[str, Any]) -> None:
    """Refuse arguments of the framework's own transformation that have no counterpart, with the reason.

    What is None or False asks for nothing.

    Raises:
      TypeError: there is one that asks for something.

    >>> refuse("reversible_scan", {"unroll": 2, "_split_transpose": False})
    >>> refuse("reversible_scan", {"_split_transpose": True})
    Traceback (most recent call last):
    TypeError: reversible_scan() does not take _split_transpose: the way back is no transposed scan
    """
    for argument in _REASONS.keys() & {key for key, value in arguments.items() if value}:
        raise TypeError(f"{name}() does not take {argument}: {_REASONS[argument]}")


def split_limits(arguments: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Divide keyword arguments into those that `reversible_scan` alone has, and all others.

    >>> split_limits({"max_overhead": 0.1, "length": 3})
    ({'max_overhead': 0.1}, {'length': 3})
    """
    limits = {name: value for name, value in arguments.items() if name in _LIMITS.parameters}
    return limits, {name: value for name, value in arguments.items() if name not in limits}


def loops_reversible(**limits: Any) -> Run:
    """Run the loops of a function by `reversible_scan` in place of `lax.scan`.

    A framework's scan sorts what a body reads and writes into constants, carry and slices, and leaves the
    loop to `jax.lax.scan`. So the call is traced, and its equations are evaluated one by one, but for that
    loop. A loop inside the body of another one stays as it is.

    Args:
      limits: what `reversible_scan` takes by name alone: `max_overhead`, `max_bytes`, `save_names`,
        `replay_names`, `save_every`, `invert` and `plan`.

    Raises:
      TypeError: for a limit of another name.
      ValueError: for two limits, or for one that none can keep to, as `reversible_scan` does.

    >>> import jax, jax.numpy as jnp
    >>> run = loops_reversible(max_overhead=float("inf"))
    >>> weights = jnp.full((3, 2, 2), 0.1)
    >>> loop = lambda w: jax.lax.scan(lambda c, w: (c + jnp.tanh(c @ w), None), jnp.ones((1, 2)), w)[0].sum()
    >>> ours, plain = jax.grad(lambda w: run(lambda: loop(w))())(weights), jax.grad(loop)(weights)
    >>> bool(jnp.allclose(ours, plain))
    True
    """
    bound = _LIMITS.bind(**limits)
    bound.apply_defaults()
    given = bound.arguments
    wanted(given["plan"], *(given[name] for name in _OF_A_PLAN))
    check_save_every(given["save_every"])
    run = functools.partial(_run_loop, **limits)

    def bind(equation: Equation, operands):
        if equation.primitive is not p.scan_p:
            return equation.bind(operands)
        with equation.scope():
            return run(equation, operands)

    def transformed(fun):
        @functools.wraps(fun)
        def call():
            program, constants, tree = trace(fun, merged=False)
            return jax.tree.unflatten(tree, program.evaluate(constants, program.outputs, bind))

        return call

    return transformed


def _run_loop(equation: Equation, operands: Sequence[Any], **options: Any) -> list[Any]:
    """The results of a scan. What its carry only hands on, as it came, is no carry but a constant."""
    (body,) = subprograms(equation, merged=False)
    rank = lambda aval: len(aval.shape)
    outer_inner = zip(equation.out_avals, body.outputs, strict=True)
    num_carry = sum(rank(outer) == rank(aval_of(body, inner)) for outer, inner in outer_inner)
    outer_inner = zip(equation.in_avals, body.inputs, strict=True)
    first_x = sum(rank(outer) == rank(aval_of(body, inner)) for outer, inner in outer_inner)
    first_carry = first_x - num_carry
    fixed, xs = list(operands[:first_x]), list(operands[first_x:])
    moving = [k for k in range(num_carry) if body.outputs[k] != body.inputs[first_carry + k]]

    def step(carry, x):
        inputs = list(fixed)
        for k, value in zip(moving, carry, strict=True):
            inputs[first_carry + k] = value
        outputs = body.evaluate([*inputs, *x], body.outputs)
        return [outputs[k] for k in moving], outputs[num_carry:]

    order = {key: equation.params[key] for key in ("length", "reverse", "unroll")}
    carry, ys = reversible_scan(step, [fixed[first_carry + k] for k in moving], xs, **order, **options)
    results = fixed[first_carry:first_x]
    for k, value in zip(moving, carry, strict=True):
        results[k] = value
    return [*results, *ys]
