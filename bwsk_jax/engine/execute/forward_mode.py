"""Refuse forward-mode differentiation in our own words, wherever JAX notices it.

JAX lets a `jax.custom_vjp` function be differentiated forwards until something asks for the tangents: at once
outside `jit`, when the program is lowered inside it, or when a function of `jax.linearize` is called. Its
error names no function by then. So the inputs pass through an identity whose tangent is a linear equation:
reverse mode transposes it away, and what evaluates or lowers it raises. It is one identity for all of them,
so that of a gradient with respect to some the derivative with respect to others may be taken forwards. (From
0.12 on JAX looks at a compiled program before it lowers it. There its own error comes first, and points to
the line of the call.)
"""

from __future__ import annotations

import functools
from typing import Any

import jax
from jax.custom_derivatives import SymbolicZero
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from bwsk_jax.engine.program.types import is_differentiable
from bwsk_jax.engine.program.vjp import merge, split

__all__ = ["backwards_only"]


def backwards_only(name: str, tree: Any) -> Any:
    """Return `tree` as it is; forward-mode derivatives of it raise `TypeError`, which says so of `name`.

    >>> import jax
    >>> square = lambda x: backwards_only("square", x) ** 2
    >>> float(jax.grad(square)(3.0))
    6.0
    >>> try:
    ...     jax.jit(lambda x: jax.jvp(square, (x,), (x,)))(3.0)
    ... except TypeError as error:
    ...     print(str(error)[:30])
    square has no forward-mode der
    """
    leaves, structure = jax.tree.flatten(tree)
    mask = [is_differentiable(leaf) for leaf in leaves]
    varied, others = split(mask, leaves)
    return structure.unflatten(merge(mask, _identity(name, varied), others))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _identity(name, arrays):
    return arrays


def _identity_jvp(name, primals, tangents):
    mark = lambda t: t if isinstance(t, SymbolicZero) else _tangent_p.bind(t, name=name)
    return primals[0], list(map(mark, tangents[0]))


_identity.defjvp(_identity_jvp, symbolic_zeros=True)


def _refuse(*_: Any, name: str) -> Any:
    raise TypeError(
        f"{name} has no forward-mode derivative (jvp, jacfwd, linearize): its rule inverts on the way back, "
        "and going forward there is nothing to save. Use jax.grad, jax.vjp or jax.jacrev, or the plain "
        "function."
    )


_tangent_p = Primitive("tangent_of_what_goes_backwards_only")
_tangent_p.def_impl(_refuse)
_tangent_p.def_abstract_eval(lambda aval, *, name: aval)
ad.deflinear2(_tangent_p, lambda cotangent, _, *, name: [cotangent])
batching.defvectorized(_tangent_p)
mlir.register_lowering(_tangent_p, _refuse)
