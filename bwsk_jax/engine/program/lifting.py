"""Say where a module of a framework needs a lifted sibling, which `bwsk_jax.frameworks` has.

Calling a module of Linen or Haiku makes parameters and changes state outside the function that is traced, and
so does calling one of NNX that is closed over. The tracers that are left there are met by errors later, far
from their cause, or by none. The engine imports no framework: of one that nobody has imported there are no
modules.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

__all__ = ["refuse_modules", "state_explained"]


def refuse_modules(name: str, fun: Callable, args: Sequence[Any]) -> None:
    """Refuse a function that is or belongs to a bound module, or takes one, in favour of the lifted sibling.

    A module's pure `apply` is not refused.

    Raises:
      TypeError: it is one; the message names the sibling.
    """
    held = (fun, getattr(fun, "__self__", None), *args)
    for home, framework in (("flax.linen", "linen"), ("haiku", "haiku")):
        module = getattr(sys.modules.get(home), "Module", None)
        if module and getattr(fun, "__name__", "") != "apply" and any(_is_bound(a, module) for a in held):
            sibling = f"bwsk_jax.frameworks.{framework}.{name.rpartition('.')[2]}"
            raise TypeError(f"{name} takes functions of arrays: for modules of {home} use {sibling}")


def _is_bound(value: Any, module: type) -> bool:
    """Whether it is a class of modules, or a module whose calls reach state outside it."""
    if isinstance(value, type):
        return issubclass(value, module)
    return isinstance(value, module) and getattr(value, "scope", True) is not None


@contextlib.contextmanager
def state_explained(name: str) -> Iterator[None]:
    """Name the lifted siblings in errors about state that a traced function changes outside itself."""
    function = name.rpartition(".")[2]
    changed = getattr(sys.modules.get("flax.errors"), "TraceContextError", ())
    try:
        yield
    except changed as error:
        sibling = f"bwsk_jax.frameworks.nnx.{function}"
        raise TypeError(
            f"a function given to {name} changes an NNX module: use {sibling} and pass it the module"
        ) from error
    except jax.errors.UnexpectedTracerError as error:
        homes = {"flax.linen": "linen", "flax.nnx": "nnx", "haiku": "haiku"}
        names = [f"bwsk_jax.frameworks.{homes[home]}.{function}" for home in homes if home in sys.modules]
        if names:
            error.add_note(
                f"If a module was called in the function given to {name}, use {' or '.join(names)}."
            )
        raise
