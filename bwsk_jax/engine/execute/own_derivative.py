"""Functions with a backward pass of their own, for those of their inputs that vary.

What does not vary is not differentiated: what reads it may have no derivative, or one that is not finite.
Where nothing differentiates an output, its cotangent is None. To take it for an array of zeros would multiply
these with derivatives that may be infinite.

Such a function is a `jax.custom_jvp`. Its rule runs forward, keeps what the way back will read, and gives the
tangents to one linear equation. Reverse mode transposes that away, into the way back; what evaluates or
compiles it goes forwards, and raises. A `jax.custom_vjp` would not do. It remembers how what it kept is laid
out for the way back that it traced last. JAX traces the body of a loop once, and the way back from other
inputs, from another loop over that body, would be taken for it.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jax.extend.core import Primitive, unmapped_aval
from jax.interpreters import ad, batching, mlir

from bwsk_jax.engine.program.jaxprs import named_axes, naming_axes
from bwsk_jax.engine.program.types import again, is_differentiable, without_weak_type
from bwsk_jax.engine.program.vjp import merge, split, with_fill

__all__ = ["Rules", "with_rules"]


class Rules(Protocol):
    """The rules of a derivative with respect to some inputs, as `jax.custom_vjp` has them.

    But a cotangent that nothing has contributed to is None. So is that of an input that does not vary.
    """

    @property
    def forward(self) -> Callable[..., Any]:
        """From the arguments to the result, and what `backward` has to know."""
        ...

    @property
    def backward(self) -> Callable[[Any, Any], Any]:
        """From that and the cotangents of the result to those of the arguments."""
        ...


def with_rules(name: str, fun: Callable, rules: Callable[[tuple[bool, ...]], Rules]) -> Callable:
    """`fun` with a derivative, the rules of which run where the axes have names that have one now.

    `rules` gives those with respect to some inputs: it is told of each leaf of the arguments whether it is a
    float that varies. `name` is what errors call the function.

    >>> import jax
    >>> class OfSquare:
    ...     forward = staticmethod(lambda x: (x * x, x))
    ...     backward = staticmethod(lambda x, ct: (2 * x * ct,))
    >>> square = with_rules("square", lambda x: x * x, lambda varied: OfSquare)
    >>> float(jax.grad(square)(3.0))
    6.0
    >>> try:
    ...     jax.jit(lambda x: jax.jvp(square, (x,), (x,)))(3.0)
    ... except TypeError as error:
    ...     print(str(error)[:30])
    square has no forward-mode der
    """
    axes = named_axes()

    def named():
        return naming_axes({axis: size for axis, size in axes.items() if axis not in named_axes()})

    def rule(primals, tangents):
        inputs, tangents = jax.tree.leaves(primals), jax.tree.leaves(tangents)
        moves = (not isinstance(t, SymbolicZero) for t in tangents)
        varied = tuple(map(operator.and_, moves, map(_is_float, inputs)))
        found = rules(varied)
        with named():
            result, kept = found.forward(*primals)
        results, tree = jax.tree.flatten(result)
        kept, kept_tree = jax.tree.flatten(kept)
        floats = list(map(_is_float, results))

        def pull(kept, cotangents):
            kept = jax.tree.unflatten(kept_tree, map(again, kept))
            cotangents = jax.tree.unflatten(tree, with_fill(floats, cotangents, None))
            with named():
                pulled = found.backward(kept, cotangents)
            return split(varied, jax.tree.leaves(pulled, is_leaf=lambda ct: ct is None))[0]

        moved = _tangents(name, pull, kept, split(floats, results)[0], split(varied, tangents)[0])
        still = [SymbolicZero(jax.typeof(x).to_tangent_aval()) for x in split(floats, results)[1]]
        return result, jax.tree.unflatten(tree, merge(floats, moved, still))

    call = jax.custom_jvp(fun)
    call.defjvp(rule, symbolic_zeros=True)
    return call


def _is_float(x: Any) -> bool:
    """Whether it has a derivative; a Python number has no type of its own."""
    return is_differentiable(jax.typeof(x))


# --- the linear equation -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class _Linear:
    """What the equation stands for.

    Its operands are what is kept, a mark for each result, and the tangents. Its results are tangents.

    Attributes:
      name: what errors call the function.
      pull: from what is kept and the cotangents of the results to those of the inputs. None is one that
        nothing has contributed to.
      num_kept: how many arrays are kept.
      avals: the types of the results' tangents.
    """

    name: str
    pull: Callable[[Sequence[Any], Sequence[Any]], list[Any]]
    num_kept: int
    avals: tuple[Any, ...]

    def split(self, items: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any], Sequence[Any]]:
        """Split a list with an item for each operand into those of what is kept, of marks and of tangents."""
        first_tangent = self.num_kept + len(self.avals)
        return items[: self.num_kept], items[self.num_kept : first_tangent], items[first_tangent:]


def _tangents(name: str, pull: Callable, kept: Any, results: Sequence[Any], tangents: Sequence[Any]) -> Any:
    """The tangents of the results: those of the inputs, linearly, by the transpose of `pull`."""
    avals = tuple(without_weak_type(jax.typeof(x).to_tangent_aval()) for x in results)
    # A mark has no elements. All that it says is along which mapped axes its result varies.
    marks = [lax.stop_gradient(lax.broadcast(x, (0,))) for x in results]
    return _linear_p.bind(*kept, *marks, *tangents, linear=_Linear(name, pull, len(kept), avals))


def _refused(*_: Any, linear: _Linear) -> Any:
    raise TypeError(
        f"{linear.name} has no forward-mode derivative (jvp, jacfwd, linearize): its rule inverts on the way "
        "back, and going forward there is nothing to save. Use jax.grad, jax.vjp or jax.jacrev, or the plain "
        "function."
    )


def _transposed(cotangents: Sequence[Any], *operands: Any, linear: _Linear) -> list[Any]:
    kept, marks, _ = linear.split(operands)
    pulled = linear.pull(kept, [None if isinstance(ct, ad.Zero) else ct for ct in cotangents])
    return [None] * (len(kept) + len(marks)) + pulled


def _batched(axis: Any, operands: Sequence[Any], dims: Sequence[Any], *, linear: _Linear) -> Any:
    """Map the way back, with the name of the axis, for collectives in it.

    A result that all elements share has one cotangent. The first element has all of it, for each would take
    it for its own.
    """
    kept_dims, mark_dims, tangent_dims = linear.split(dims)
    out_dims = [None if d is None else 0 for d in mark_dims]
    spread = lambda ct: jnp.zeros((axis.size, *ct.shape), ct.dtype).at[0].set(ct)

    def pull(kept, cotangents):
        given = [ct is not None for ct in cotangents]
        pairs = zip(cotangents, out_dims, strict=True)
        present = [spread(ct) if dim is None else ct for ct, dim in pairs if ct is not None]
        reached: list[bool] = []

        def of_one(kept, present):
            pulled = linear.pull(kept, with_fill(given, present, None))
            reached[:] = [ct is not None for ct in pulled]
            return [ct for ct in pulled if ct is not None]

        axis_of = {"axis_size": axis.size, "axis_name": axis.name, "spmd_axis_name": axis.spmd_name}
        of_all = jax.vmap(of_one, in_axes=(list(kept_dims), 0), **axis_of)
        pulled = with_fill(reached, of_all(list(kept), present), None)
        pairs = zip(pulled, tangent_dims, strict=True)
        return [ct if ct is None else _unmapped(ct, dim) for ct, dim in pairs]

    mapped = zip(linear.avals, out_dims, strict=True)
    avals = tuple(aval if dim is None else unmapped_aval(axis.size, dim, aval) for aval, dim in mapped)
    batched = dataclasses.replace(linear, pull=pull, avals=avals)
    return _linear_p.bind(*operands, linear=batched), out_dims


def _unmapped(cotangent: Any, dim: int | None) -> Any:
    """The cotangents of all elements, stacked first, as that of an operand that is mapped along `dim`."""
    return cotangent.sum(0) if dim is None else jnp.moveaxis(cotangent, 0, dim)


_linear_p = Primitive("tangents_of_what_goes_backwards_only")
_linear_p.multiple_results = True
_linear_p.def_impl(_refused)
_linear_p.def_abstract_eval(lambda *_, linear: list(linear.avals))
ad.primitive_transposes[_linear_p] = _transposed
batching.fancy_primitive_batchers[_linear_p] = _batched
mlir.register_lowering(_linear_p, _refused)
