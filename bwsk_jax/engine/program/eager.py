"""Calls outside `jit`: the second one traces nothing again, and compiles nothing again.

JAX traces a function once for arguments of the same types, and gives the same jaxpr each time for as long as
the function lives. So what is made of a jaxpr is remembered for as long as the jaxpr lives. What the function
closes over is hoisted out of it and is not remembered here. But a function that reads something that changes
is not traced again to notice it, which is so for `jax.lax.scan` and `jax.checkpoint` as well.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import jax
from jax.core import Tracer
from jax.extend.core import jaxprs_in_params

from bwsk_jax.engine.program.jaxprs import INLINED
from bwsk_jax.engine.program.mutable import makes_mutable_arrays, without_mutable_arrays

__all__ = ["compiled_once", "is_traced", "remembered", "traced"]

Made = TypeVar("Made")

_MADE: weakref.WeakKeyDictionary[Any, dict[Hashable, Any]] = weakref.WeakKeyDictionary()


def traced(fun: Callable, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
    """The closed jaxpr of a function of arrays or their types, and the structure of its result.

    Raises:
      TypeError: it holds a `jax.checkpoint` with a policy, which the plan would not keep to.
    """
    try:
        hash(fun)
    except TypeError:  # JAX looks a function up by its hash
        fun = functools.partial(fun)
    closed, out_shape = jax.make_jaxpr(fun, return_shape=True)(*args, **kwargs)
    if remembered(closed, makes_mutable_arrays, functools.partial(makes_mutable_arrays, closed.jaxpr)):
        closed = without_mutable_arrays(closed)
    remembered(closed, _refuse_policies, functools.partial(_refuse_policies, closed))
    return closed, jax.tree.structure(out_shape)


def _refuse_policies(closed: Any) -> None:
    """What runs as it stands, such as a loop, keeps to its policies; only what is inlined would not."""
    for eqn in getattr(closed, "jaxpr", closed).eqns:
        if eqn.primitive not in INLINED:
            continue
        policy = eqn.params.get("policy")
        if policy not in (None, jax.checkpoint_policies.nothing_saveable):
            name = getattr(policy, "__name__", type(policy).__name__)
            raise TypeError(
                f"a jax.checkpoint inside has a policy, {name}, that the plan would not keep to: call it "
                "without one, or name what it saves by checkpoint_name and pass save_names or replay_names"
            )
        for inner in jaxprs_in_params(eqn.params):
            _refuse_policies(inner)


def remembered(closed: Any, key: Hashable, make: Callable[[], Made]) -> Made:
    """What `make()` gave when it was first asked for, with this key, for a closed jaxpr from `traced`.

    It must hold neither a tracer nor that jaxpr, which it would keep alive.
    """
    made = _MADE.setdefault(getattr(closed, "jaxpr", closed), {})
    if key not in made:
        made[key] = make()
    return made[key]


def is_traced(args: Any) -> bool:
    """Whether JAX traces any of these arrays: it compiles, maps or differentiates what is made of them."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(args))


def compiled_once(method: Callable | None = None, *, untraced: Callable = lambda result: result) -> Callable:
    """A method of arrays that is compiled at its first call; within `jit` it runs as it stands.

    Where it is compiled, and nothing differentiates it, `untraced` says what becomes of its result.
    """
    if method is None:
        return functools.partial(compiled_once, untraced=untraced)
    name = f"_compiled_{method.__name__}"

    @functools.wraps(method)
    def call(self, *args):
        if is_traced(args):
            return method(self, *args)
        if name not in vars(self):
            vars(self)[name] = jax.jit(lambda *args: untraced(method(self, *args)))
        return vars(self)[name](*args)

    return call
