"""A text that says which problem a plan is for, the same in every process and on every machine."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.extend.core import Literal

from bwsk_jax.engine.plan.problem import Problem
from bwsk_jax.engine.program.jaxprs import Program, flatten
from bwsk_jax.engine.program.types import is_key

__all__ = ["fingerprint", "signature"]

_ADDRESS = re.compile(r"\b0x[0-9a-f]+")
"""Where an object lies in memory, which functions and others print: no two processes have the same."""


def fingerprint(problem: Problem) -> str:
    """Equal for two problems that have the same program, know the same values and need the same values.

    Which steps there are is left out, and so is the number of iterations: whether a plan's steps are there,
    and may be used so often, is checked where the plan is used.
    """
    sets = (problem.available, problem.targets, problem.carry_in, problem.residuals)
    lines = (*_lines(problem.program), *(str(sorted(numbers)) for numbers in sets))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def signature(primitive: Any, avals: Iterable[Any], params: Any) -> str:
    """Equal for two equations that do the same with operands of the same shapes and types."""
    return f"{primitive} {[(a.shape, a.dtype.name) for a in avals]} {_text(dict(params))}"


def _lines(program: Program) -> Iterator[str]:
    yield from map(str, program.avals)
    yield f"{program.inputs} {sorted(program.constants)} {_text(program.outputs)}"
    for equation in program.equations:
        params = _text(equation.params)
        yield f"{equation.primitive} {params} {_text(equation.inputs)} {equation.outputs}"


def _text(value: Any) -> str:
    """What a parameter or an operand is, without anything that differs from process to process.

    The order of a set does, for one, because Python draws the hashes of strings anew each time.
    """
    if isinstance(value, Literal):
        return f"{value.aval}:{_text(value.val)}"
    if isinstance(value, (np.ndarray, jax.Array)):
        array = np.asarray(jax.random.key_data(value) if is_key(value) else value)
        return f"{array.dtype}{array.shape}:{hashlib.sha256(array.tobytes()).hexdigest()}"
    if hasattr(getattr(value, "jaxpr", value), "eqns"):
        return "\n".join(("{", *_lines(flatten(value)), "}"))
    if isinstance(value, dict):
        return str(sorted((str(key), _text(item)) for key, item in value.items()))
    if isinstance(value, (set, frozenset)):
        return str(sorted(map(_text, value)))
    if isinstance(value, (np.generic, bool, int, float, complex)):
        return repr(value)
    if type(value) in (tuple, list):
        return str(list(map(_text, value)))
    return _ADDRESS.sub("0x", str(value))
