"""A function and the types of its arguments, named on a command line."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["SubjectError", "import_function", "parse_types"]


class SubjectError(ValueError):
    """What was asked to be looked at cannot be."""


SHORT = {"bf": "bfloat", "f": "float", "i": "int", "u": "uint", "c": "complex", "bool": "bool"}
"""How JAX shortens the names of types."""

KEYS = {"fry": "threefry2x32", "rbg": "rbg", "urbg": "unsafe_rbg"}
"""How JAX shortens the names of key implementations."""

TYPE = re.compile(
    r"(?:key<(?P<key>\w+)>|(?P<kind>bool|bf|f|i|u|c)(?P<rest>\d\w*)?)\[(?P<shape>(?:\d+(?:,\d+)*)?)\]"
)


def parse_types(text: str) -> list[jax.ShapeDtypeStruct]:
    """Read types as JAX prints them, separated by blanks.

    Raises:
        SubjectError: a type that JAX does not have, or not as it is configured.

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
    """Import `package.module:name`, from the working folder too.

    Raises:
        SubjectError: there is no such module or function, or the module fails.

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
    except (Exception, SystemExit) as error:  # a module may fail in any way
        raise SubjectError(f"--function {path!r} cannot be imported: {described(error)}") from error
    if not callable(found):
        raise SubjectError(f"--function {path!r} is a {type(found).__name__}, not a function")
    return found


def described(error: Exception) -> str:
    """An exception in one line."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
