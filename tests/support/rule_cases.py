"""Calls of one primitive, and the check that its inverses give back its operands to their grades."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bwsk_jax.engine.program import jaxprs
from bwsk_jax.engine.program.types import is_key
from bwsk_jax.engine.rules.exactness import Grade


@dataclasses.dataclass(frozen=True)
class Case:
    """A call of one primitive: the operands, uniform in [low, high], and the grade of each inverse it has."""

    primitive: Any
    call: Callable
    grades: dict[int, Grade]
    low: float = -2.0
    high: float = 2.0
    shapes: tuple = ((3, 4),)
    types: tuple = ("float32", "float64")

    @property
    def id(self) -> str:
        return str(self.primitive)


FLOATS = ("float16", "bfloat16", "float32", "float64")
ALL = (*FLOATS, "int8", "uint32", "int32", "bool", "complex64")
TWO = ((3, 4), (3, 4))


def draw(rng, case, shape, dtype):
    dtype = jnp.dtype(dtype)
    if dtype == jnp.bool_:
        return jnp.asarray(rng.integers(0, 2, shape), bool)
    if jnp.issubdtype(dtype, jnp.integer):
        info = jnp.iinfo(dtype)
        widest = np.int64 if info.min < 0 else np.uint64
        return jnp.asarray(rng.integers(info.min, info.max, shape, widest, endpoint=True).astype(dtype))
    drawn = rng.uniform(case.low, case.high, shape)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        drawn = drawn + 1j * rng.uniform(case.low, case.high, shape)
    widest = jax.dtypes.canonicalize_dtype(drawn.dtype)
    return jnp.asarray(drawn.astype(widest).astype(dtype))


def round_trips(cases):
    """Each case with each of its types, as parameters of a test; all types but the first are slow."""
    return [
        pytest.param(c, t, id=f"{c.id}-{t}-{k}", marks=() if t == c.types[0] else pytest.mark.slow)
        for k, c in enumerate(cases)
        for t in c.types
    ]


def equation_of(call, primitive, *operands):
    """The equation with this primitive, its operands and its outputs."""
    program = program_of(call, *operands)
    (equation,) = [e for e in program.equations if e.primitive is primitive]
    wanted = [*equation.inputs, *equation.outputs]
    values = jax.jit(lambda *operands: program.evaluate(operands, wanted))(*operands)
    return equation, values[: len(equation.inputs)], values[len(equation.inputs) :]


def program_of(call, *operands):
    """The flat program of a call."""
    return jaxprs.flatten(jax.make_jaxpr(call)(*operands))


def check_round_trip(case, dtype, inverses_of):
    """Every inverse that the case names is there, and gives back the operand to what its grade promises.

    `inverses_of(equation, program)` are those of an equation of a program.
    """
    with jax.enable_x64("64" in dtype or "128" in dtype):
        rng = np.random.default_rng(0)
        operands = [draw(rng, case, shape, dtype) for shape in case.shapes]
        equation, inputs, outputs = equation_of(case.call, case.primitive, *operands)
        inverses = inverses_of(equation, program_of(case.call, *operands))
        assert {i.operand: i.grade for i in inverses} == case.grades
        for inverse in inverses:
            others = [v if k in inverse.given(equation) else None for k, v in enumerate(inputs)]
            got, true = jax.jit(inverse.apply)(others, outputs), inputs[inverse.operand]
            assert (got.shape, got.dtype) == (true.shape, true.dtype)
            if is_key(jax.typeof(true)):
                got, true = map(jax.random.key_data, (got, true))
            got, true = np.asarray(got), np.asarray(true)
            if inverse.grade is Grade.EXACT:
                assert got.tobytes() == true.tobytes()
                continue
            narrow = outputs[0].dtype if inverse.grade is Grade.NARROWED else true.dtype
            eps = float(jnp.finfo(narrow).eps)
            wide = np.complex128 if np.iscomplexobj(true) else np.float64
            error, size = np.abs(got.astype(wide) - true.astype(wide)), np.abs(true.astype(wide))
            if inverse.grade is Grade.RELATIVE:
                assert (error <= 8 * eps * size).all()
                continue
            digits = {Grade.ROUNDED: 64 * eps, Grade.GUARDED: eps ** (2 / 3), Grade.NARROWED: eps}
            assert error.max() <= digits[inverse.grade] * max(1.0, case.high)
