"""What the inspector looks at: BERT as it is trained, or any function named on the command line.

A function comes with the types of its arguments, written as JAX prints them.
"""

from __future__ import annotations

import functools
import importlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

import bwsk_jax
from bwsk_jax import bert
from bwsk_jax.engine.program.jaxprs import trace
from bwsk_jax.engine.program.vjp import trace_vjp
from bwsk_jax.errors import UserError

__all__ = [
    "Subject",
    "SubjectError",
    "import_function",
    "parse_types",
    "subject_of_bert",
    "subject_of_function",
]


class SubjectError(UserError):
    """The inspector cannot look at what it was asked to look at."""


@dataclass(frozen=True)
class Subject:
    """Something to look at, and how it is classified and planned.

    Attributes:
      name: says what it is, with its sizes.
      unit: says what one plan is for, such as one of twelve layers.
      classify: returns the report; takes `taxonomy`.
      plan: returns the plan of one unit; takes `max_overhead` and `max_bytes`.
      frontier: returns the plans of the frontier of one unit; takes `invert`.
    """

    name: str
    unit: str
    classify: Callable[..., bwsk_jax.Report]
    plan: Callable[..., bwsk_jax.Plan]
    frontier: Callable[..., list[bwsk_jax.Plan]]


def subject_of_bert(name: str, config: bert.BertConfig, batch_size: int, seq_len: int, dtype: Any) -> Subject:
    """Return the training of a BERT as a subject; its plans are those of one layer."""
    encoder = bert.abstract_encoder(config, batch_size, seq_len, dtype)
    return Subject(
        name=f"{name} in training: logits of {batch_size} x {seq_len} tokens, {dtype.__name__}",
        unit=f"one of {config.num_hidden_layers} layers",
        classify=functools.partial(bert.classify_training, config, batch_size, seq_len, dtype),
        plan=functools.partial(bwsk_jax.plan_scan, *encoder),
        frontier=functools.partial(bwsk_jax.frontier, *encoder),
    )


def subject_of_function(path: str, types: str, wrt: Sequence[int] | None) -> Subject:
    """Return the function `package.module:name` of arrays as a subject.

    `types` are those of its arguments. `wrt` numbers the arguments whose information is followed; None
    follows all of them.

    Raises:
        SubjectError: there is no such function, it does not take these types, or `wrt` names no argument.
    """
    fun, args = import_function(path), parse_types(types)
    if wrt is not None and not all(0 <= number < len(args) for number in wrt):
        raise SubjectError(f"--wrt {' '.join(map(str, wrt))}: there are {len(args)} arguments, from 0")
    try:
        jax.eval_shape(fun, *args)
    except (Exception, SystemExit) as error:  # running a function may fail in any way
        raise SubjectError(f"{path} cannot be traced with --args {types!r}: {_described(error)}") from error
    # A call is one iteration of a scan that carries nothing.
    iteration = lambda carry, args: (carry, fun(*args))
    once = [jax.ShapeDtypeStruct((1, *a.shape), a.dtype) for a in args]
    return Subject(
        name=f"{path}({', '.join(types.split())})",
        unit="one call",
        classify=functools.partial(bwsk_jax.classify, fun, *args, wrt=wrt),
        plan=_if_differentiable(path, fun, args, functools.partial(bwsk_jax.plan, fun, *args)),
        frontier=_if_differentiable(
            path, fun, args, functools.partial(bwsk_jax.frontier, iteration, (), once, length=1)
        ),
    )


def _if_differentiable(path: str, fun: Callable, args: list[Any], planner: Callable) -> Callable:
    """Return `planner`, but with an error in one line where the function has no derivative."""

    def planned(**limits: Any) -> Any:
        try:
            _ = trace_vjp(trace(fun, *args)[0]).traced_pullback
        except Exception as error:  # JAX has many exceptions for a missing rule, and users have their own
            raise SubjectError(f"{path} cannot be differentiated: {_described(error)}") from error
        return planner(**limits)

    return planned


# --- types and functions by name ----------------------------------------------------------------------------

SHORT = {"bf": "bfloat", "f": "float", "i": "int", "u": "uint", "c": "complex", "bool": "bool"}
"""JAX's short names of types, and the names that they stand for."""

KEYS = {"fry": "threefry2x32", "rbg": "rbg", "urbg": "unsafe_rbg"}
"""JAX's short names of key implementations, and the names that they stand for."""

TYPE = re.compile(
    r"(?:key<(?P<key>\w+)>|(?P<kind>bool|bf|f|i|u|c)(?P<rest>\d\w*)?)\[(?P<shape>(?:\d+(?:,\d+)*)?)\]"
)


def parse_types(text: str) -> list[jax.ShapeDtypeStruct]:
    """Read types, written as JAX prints them and separated by blanks.

    Raises:
        SubjectError: JAX does not have one of the types, or does not have it as it is configured.

    >>> parse_types("bf16[4,128] i32[] key<fry>[2]")  # doctest: +NORMALIZE_WHITESPACE
    [ShapeDtypeStruct(shape=(4, 128), dtype=bfloat16), ShapeDtypeStruct(shape=(), dtype=int32),
     ShapeDtypeStruct(shape=(2,), dtype=key<fry>)]
    """
    return list(map(_parse_type, text.split()))


def _parse_type(text: str) -> jax.ShapeDtypeStruct:
    found = TYPE.fullmatch(text)
    if found is None:
        raise SubjectError(f"--args: {text!r} is no type such as f32[4,128], i32[] or key<fry>[]")
    shape = tuple(map(int, filter(None, found["shape"].split(","))))
    if found["key"]:
        return jax.ShapeDtypeStruct(shape, _key_type(text, found["key"]))
    try:
        dtype = jnp.dtype(SHORT[found["kind"]] + (found["rest"] or ""))
    except TypeError:
        raise SubjectError(f"--args: {text!r} is of a type that JAX does not have") from None
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise SubjectError(f"--args: {text!r} needs 64-bit types: set JAX_ENABLE_X64=1")
    return jax.ShapeDtypeStruct(shape, dtype)


def _key_type(text: str, name: str) -> Any:
    if name not in KEYS:
        raise SubjectError(f"--args: {text!r} is a key of none of {', '.join(KEYS)}")
    return jax.eval_shape(lambda: jax.random.key(0, impl=KEYS[name])).dtype


def import_function(path: str) -> Callable:
    """Import the function `package.module:name`; the working folder is searched too.

    Raises:
        SubjectError: there is no such module or function, or importing the module fails.

    >>> import_function("jax.nn:gelu").__name__
    'gelu'
    """
    module, _, name = path.partition(":")
    if not module or not name:
        raise SubjectError(f"--function {path!r} is not of the form package.module:name")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as error:  # importing a module may fail in any way
        raise SubjectError(f"--function {path!r} cannot be imported: {_described(error)}") from error
    if not callable(found):
        raise SubjectError(f"--function {path!r} is a {type(found).__name__}, not a function")
    return found


def _described(error: BaseException) -> str:
    """Return an exception in one line."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
