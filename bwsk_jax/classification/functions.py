"""Functions of several equations that preserve as a whole, although some of their equations erase.

`softplus(x)` is written with a maximum and a magnitude, and `leaky_relu(x)` with a comparison and a choice.
Each of these erases, but the functions are strictly increasing. They are found by comparing a program's
equations with those that JAX traces for the function itself, and are known only where all of them agree.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal
from jax.extend.core import primitives as p

from bwsk_jax.engine.program.jaxprs import CUSTOM_DERIVATIVES, INLINED, Equation, Program, trace
from bwsk_jax.engine.program.types import is_real
from bwsk_jax.engine.rules.intervals import Interval

__all__ = ["FUNCTIONS", "Function", "Occurrence", "occurrences"]


@dataclasses.dataclass(frozen=True, eq=False)
class Function:
    """An elementwise function that is strictly increasing.

    Attributes:
      name: what it is called.
      call: the function of x, or of x and a number c. It increases if c is above 0, which a parameter may be.
      inverse: x from the function's value, and from c if there is one.
      has_constant: whether there is a c.
      reference_preserves: whether the reference counts it as preserving.
    """

    name: str
    call: Callable[..., Any]
    inverse: Callable[..., Any]
    has_constant: bool = True
    reference_preserves: bool = False


def _leaky(y, c):
    return jnp.where(y >= 0, y, y / c)


FUNCTIONS = (
    Function(
        "softplus", jax.nn.softplus, lambda y: y + jnp.log(-jnp.expm1(-y)), False, reference_preserves=True
    ),
    Function("leaky_relu", jax.nn.leaky_relu, _leaky, reference_preserves=True),
    Function("leaky_relu", lambda x, c: jnp.where(x > 0, x, c * x), _leaky, reference_preserves=True),
    Function(
        "leaky_relu",
        lambda x, c: jnp.maximum(x, c * x),
        lambda y, c: jnp.where(y >= 0, y / jnp.maximum(c, 1), y / jnp.minimum(c, 1)),
        reference_preserves=True,
    ),
    Function("elu", jax.nn.elu, lambda y, c: jnp.where(y > 0, y, jnp.log1p(jnp.minimum(y, 0) / c))),
    Function("celu", jax.nn.celu, lambda y, c: jnp.where(y > 0, y, c * jnp.log1p(jnp.minimum(y, 0) / c))),
    Function("soft_sign", jax.nn.soft_sign, lambda y: y / (1 - jnp.abs(y)), False),
    Function("squareplus", jax.nn.squareplus, lambda y, c: y - c / (4 * y)),
)
"""The functions that are looked for. As with `tanh`, digits are lost near a limit of the function."""


@dataclasses.dataclass(frozen=True, eq=False)
class Occurrence:
    """A place in a program where a function is computed.

    Attributes:
      function: which one.
      equations: those that compute it, in order.
      operand, result: the values x and function(x).
      constant: the value or literal c; None if there is none.
    """

    function: Function
    equations: tuple[Equation, ...]
    operand: int
    result: int
    constant: int | Literal | None


def occurrences(program: Program, interval_of: Callable[[int | Literal], Interval]) -> Iterator[Occurrence]:
    """The places in a program where one of `FUNCTIONS` is computed."""
    equations = program.equations
    for start, equation in enumerate(equations):
        for operand in dict.fromkeys(equation.reads):
            aval = program.avals[operand]
            if not is_real(aval) or aval.dtype.itemsize < 2:  # narrower floats have hardly any functions
                continue
            for function, pattern in _patterns(aval.dtype, bool(aval.shape)):
                stretch = equations[start : start + len(pattern.equations)]
                bound = _match(pattern, operand, stretch, aval.shape)
                if bound is None:
                    continue
                constant = bound[pattern.inputs[1]] if function.has_constant else None
                if constant is None or interval_of(constant).high > 0:
                    result = stretch[-1].outputs[0]
                    yield Occurrence(function, tuple(stretch), operand, result, constant)


_SHAPE = (3, 5)
"""The shape of the operand in a pattern, in place of any shape with axes."""


@functools.lru_cache(maxsize=256)
def _patterns(dtype: Any, has_axes: bool) -> list[tuple[Function, Program]]:
    """The programs of all functions on operands of this type: c may be a Python number, or an array."""
    x, found = jax.ShapeDtypeStruct(_SHAPE if has_axes else (), dtype), []
    look_into = lambda equation: equation.primitive in (INLINED | CUSTOM_DERIVATIVES)
    for function in FUNCTIONS:
        kinds = [{"weak_type": True}, {}] if function.has_constant else [None]
        for kind in kinds:
            more = [] if kind is None else [jax.ShapeDtypeStruct((), dtype, **kind)]
            program, consts, _ = trace(function.call, x, *more, merged=False, inlined=look_into)
            if not consts:
                found.append((function, program))
    return found


_SYMMETRIC = {p.add_p, p.mul_p, p.max_p, p.min_p}


def _match(
    pattern: Program, operand: int, equations: Sequence[Equation], shape: tuple[int, ...]
) -> dict[int, int | Literal] | None:
    """What the values of the pattern are in a stretch of equations that computes it; else None."""
    bound: dict[int, int | Literal] = {pattern.inputs[0]: operand}
    if len(equations) != len(pattern.equations):
        return None
    for expected, found in zip(pattern.equations, equations, strict=True):
        if expected.primitive is not found.primitive or not _same_parameters(expected, found, shape):
            return None
        orders = [found.inputs]
        if expected.primitive in _SYMMETRIC:
            orders.append(found.inputs[::-1])
        unified = (_unify(expected.inputs, order, bound) for order in orders)
        more = next((each for each in unified if each is not None), None)
        if more is None:
            return None
        bound |= more
        bound |= dict(zip(expected.outputs, found.outputs, strict=True))
    return bound


def _same_parameters(expected: Equation, found: Equation, shape: tuple[int, ...]) -> bool:
    """Whether two equations of one primitive do the same, the first to any shape, the second to this one."""
    named = lambda equation: {k: str(v) for k, v in equation.params.items() if k not in _IMMATERIAL}
    shapes = [shape if aval.shape == _SHAPE else aval.shape for aval in expected.out_avals]
    return named(expected) == named(found) and shapes == [aval.shape for aval in found.out_avals]


_IMMATERIAL = {"shape", "sharding", "out_sharding", "accuracy", "weak_type"}
"""Parameters that need not be compared: shapes are on their own, and how a result is spread is no matter."""


def _unify(
    expected: Sequence[int | Literal], found: Sequence[int | Literal], bound: dict[int, int | Literal]
) -> dict[int, int | Literal] | None:
    """What has to be bound beyond `bound` for the operands to be the expected ones; else None."""
    more: dict[int, int | Literal] = {}
    for pattern, atom in zip(expected, found, strict=True):
        if isinstance(pattern, Literal):
            same = isinstance(atom, Literal) and np.array_equal(pattern.val, atom.val)
        else:
            known = bound.get(pattern, more.get(pattern))
            same = known is None or _same_atom(known, atom)
            more[pattern] = atom
        if not same:
            return None
    return more


def _same_atom(one: int | Literal, other: int | Literal) -> bool:
    if isinstance(one, Literal) and isinstance(other, Literal):
        return bool(np.array_equal(one.val, other.val))
    return one is other or (isinstance(one, int) and one == other)
