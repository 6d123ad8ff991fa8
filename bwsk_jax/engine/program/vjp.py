"""A function and its VJP as one program, by JAX's own autodiff: the engine differentiates nothing itself."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
from jax.extend.core import Literal
from jax.extend.core import primitives as p
from jax.interpreters import ad
from jax.ref import AbstractRef

from bwsk_jax.engine.program.jaxprs import Program, aval_of, flatten
from bwsk_jax.engine.program.linearity import is_linear
from bwsk_jax.engine.program.types import is_differentiable, without_weak_type

__all__ = [
    "VjpTrace",
    "depending",
    "filled",
    "kept_by_autodiff",
    "merge",
    "split",
    "trace_vjp",
    "with_fill",
]


@dataclasses.dataclass(frozen=True, eq=False)
class VjpTrace:
    """A function and its VJP as one program, by JAX's own autodiff.

    `program.outputs` are the primal outputs followed by the residuals: the leaves of the function that
    `jax.vjp` returns. `pullback(residuals)` is that function; it takes the cotangents of the outputs that
    vary, None for one that nothing has contributed to, and returns those of the inputs that vary.

    Attributes:
      function: what was differentiated.
      varied_inputs: which of its inputs it is differentiated with respect to.
      varied_outputs: which of the primal outputs have a derivative.
      pulled_outputs: those of them whose cotangents JAX can pull back. Through a `while_loop` it cannot: then
        a gradient that asks for it raises what JAX raises, and others are as if the output was not there.
    """

    function: Program
    program: Program
    vjp_tree: Any
    varied_inputs: tuple[bool, ...]
    varied_outputs: tuple[bool, ...]
    pulled_outputs: tuple[bool, ...]
    _reached: dict[tuple[bool, ...], set[int]] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def num_outputs(self) -> int:
        """How many primal outputs there are."""
        return len(self.function.outputs)

    @property
    def outputs(self) -> tuple[int | Literal, ...]:
        """The primal outputs."""
        return self.program.outputs[: self.num_outputs]

    @property
    def residuals(self) -> tuple[int | Literal, ...]:
        """What the backward pass reads."""
        return self.program.outputs[self.num_outputs :]

    def pullback(self, residuals: Sequence[Any]) -> Callable:
        """The VJP function made whole again."""
        vjp = self._vjp(residuals)

        def pull(cotangents):
            given = [ct is not None for ct in cotangents]
            self._raise_if_refused(given)
            return vjp(cotangents) if all(given) else self._pulled(residuals, cotangents)

        return pull

    def _vjp(self, residuals: Sequence[Any]) -> Callable:
        """The same for cotangents that are all there, and of which those that are refused are not read."""
        vjp = jax.tree.unflatten(self.vjp_tree, residuals)
        return lambda cotangents: vjp(split(self._are_pulled, cotangents)[0])

    @property
    def _are_pulled(self) -> list[bool]:
        """Of the outputs that vary, which are pulled back."""
        return split(self.varied_outputs, self.pulled_outputs)[0]

    def _raise_if_refused(self, given: Sequence[bool]) -> None:
        """Raise what JAX raises if one of these cotangents cannot be pulled back."""
        asked = with_fill(self.varied_outputs, given, False)
        refused = tuple(map(operator.gt, asked, self.pulled_outputs))
        if any(refused):
            _ = _traced(self.function, self.varied_inputs, refused, refused).traced_pullback

    def _pulled(self, residuals: Sequence[Any], cotangents: Sequence[Any]) -> list[Any]:
        """What the VJP function gives where some cotangents are not there.

        Only what the others reach is computed, and what that reads. There zeros take the place of what is
        linear in those that are missing; a user's rule for several results need not be. `jax.vjp` would
        compute all of zeros, which a scan stacks, and of which infinite derivatives make NaN.
        """
        program = self.traced_pullback
        given = tuple(ct is not None for ct in cotangents)
        missing = self._reached_values((True,) * len(given)) - self._reached_values(given)
        kept, read = [], set[int]()
        for e in reversed(program.equations):
            reached = not e.outputs or not missing.issuperset(e.outputs)
            if reached or (not read.isdisjoint(e.outputs) and not is_linear(e, missing)):
                kept.append(e)
                if e.primitive is not p.add_jaxvals_p:  # the sum over all uses of a value
                    read.update(e.reads)
        places, _ = split(given, program.inputs[len(residuals) :])
        present, _ = split(given, cotangents)
        read.update(v for e in kept for v in e.reads)
        read.update(v for v in program.outputs if not isinstance(v, Literal))
        zero = sorted((missing & read).difference(*(e.outputs for e in kept)))
        zeros = [ad.instantiate_zeros(ad.Zero(program.avals[v])) for v in zero]
        inputs = *program.inputs[: len(residuals)], *places, *zero
        reduced = dataclasses.replace(program, inputs=inputs, equations=tuple(reversed(kept)))
        return reduced.evaluate([*residuals, *present, *zeros], program.outputs)

    @functools.cached_property
    def _varied_avals(self) -> list[Any]:
        """The types of the outputs that vary."""
        outputs, _ = split(self.varied_outputs, self.outputs)
        return [without_weak_type(aval_of(self.program, v)) for v in outputs]

    @functools.cached_property
    def traced_pullback(self) -> Program:
        """What the backward pass computes; its first inputs are the residuals."""
        residuals = [without_weak_type(aval_of(self.program, v)) for v in self.residuals]
        cotangents = [aval.to_ct_aval() for aval in self._varied_avals]
        return flatten(jax.make_jaxpr(lambda r, ct: self._vjp(r)(ct))(residuals, cotangents))

    @property
    def can_be_pulled_back(self) -> bool:
        """Whether JAX can pull back the cotangents of `pulled_outputs`."""
        try:
            _ = self.traced_pullback
        except Exception:  # a rule is missing, or a user's own rule fails in its own way
            return False
        return True

    def reached(self, given: Sequence[bool]) -> list[bool]:
        """Of each input that varies, whether cotangents of those outputs that are `given` reach it."""
        found = self._reached_values(tuple(given))
        return [not isinstance(v, Literal) and v in found for v in self.traced_pullback.outputs]

    def _reached_values(self, given: tuple[bool, ...]) -> set[int]:
        """The values of `traced_pullback` that depend on these of its cotangents.

        Integers too: a rule may round a cotangent to one.
        """
        if given not in self._reached:
            cotangents = self.traced_pullback.inputs[len(self.residuals) :]
            self._reached[given] = depending(self.traced_pullback, split(given, cotangents)[0])
        return self._reached[given]


def trace_vjp(
    program: Program, inputs: Sequence[bool] | None = None, outputs: Sequence[bool] | None = None
) -> VjpTrace:
    """Differentiate these outputs of a program with respect to these of its inputs, and trace the result.

    None stands for all that can be differentiated. Where JAX can pull back no cotangent at all, so does the
    result: its `traced_pullback` raises.

    Raises:
      TypeError: a size is not a number, or the program takes a mutable array.
    """
    _refuse_types(program)
    avals = [program.avals[v] for v in program.inputs]
    out_avals = [aval_of(program, v) for v in program.outputs]
    varied_inputs = tuple(map(is_differentiable, avals) if inputs is None else inputs)
    varied_outputs = tuple(map(is_differentiable, out_avals) if outputs is None else outputs)
    trace = functools.partial(_traced, program, varied_inputs, varied_outputs)
    found = trace(varied_outputs)
    if found.can_be_pulled_back:
        return found
    alone = [
        tuple(varies and j == k for j, varies in enumerate(varied_outputs)) for k in range(len(out_avals))
    ]
    pulled = tuple(any(one) and trace(one).can_be_pulled_back for one in alone)
    return trace(pulled) if any(pulled) else found


def _traced(
    program: Program,
    varied_inputs: tuple[bool, ...],
    varied_outputs: tuple[bool, ...],
    pulled_outputs: tuple[bool, ...],
) -> VjpTrace:
    avals = [program.avals[v] for v in program.inputs]
    vjp_tree = None

    def forward(*args):
        nonlocal vjp_tree

        def fun(*varied):
            outputs = program.evaluate(merge(varied_inputs, varied, fixed), program.outputs)
            return split(pulled_outputs, outputs)

        varied, fixed = split(varied_inputs, args)
        out, vjp, aux = jax.vjp(fun, *varied, has_aux=True)
        residuals, vjp_tree = jax.tree.flatten(vjp)
        return merge(pulled_outputs, out, aux), residuals

    closed = jax.make_jaxpr(forward)(*map(without_weak_type, avals))
    return VjpTrace(program, flatten(closed), vjp_tree, varied_inputs, varied_outputs, pulled_outputs)


def _refuse_types(program: Program) -> None:
    for aval in (program.avals[v] for v in program.inputs):
        if isinstance(aval, AbstractRef):
            raise TypeError(
                "the backward pass runs parts of the function again, which would change a mutable array "
                f"({aval}) twice: return its new value, or carry it through the scan"
            )
        if not all(isinstance(size, int) for size in getattr(aval, "shape", ())):
            raise TypeError(
                f"a plan weighs bytes, and {aval} has a size that is not a number: export the gradient for "
                "given sizes"
            )


def depending(
    program: Program, values: Iterable[int], through: Callable[[Any], bool] = lambda aval: True
) -> set[int]:
    """These values of a program and all that depend on them through values of such types."""
    found = set(values)
    for equation in program.equations:
        if found.intersection(equation.reads):
            found.update(v for v in equation.outputs if through(program.avals[v]))
    return found


def filled(cotangents: Sequence[Any], avals: Sequence[Any]) -> list[Any]:
    """The cotangents of values of these types, with arrays of zeros for those that are not there."""
    zeros = lambda aval: ad.instantiate_zeros(ad.Zero(aval.to_ct_aval()))
    return [zeros(aval) if ct is None else ct for ct, aval in zip(cotangents, avals, strict=True)]


def kept_by_autodiff(program: Program, like: Program) -> frozenset[int] | None:
    """The values of `like` that reverse-mode autodiff of `program` keeps; None where there is no derivative.

    Both compute the same function of the same inputs, but `like` may have had its custom derivatives inlined.
    """
    avals = [program.avals[v] for v in program.inputs]
    differentiable = tuple(map(is_differentiable, avals))
    inner = [v for equation in like.equations for v in equation.outputs]

    def forward(*args):
        varied, fixed = split(differentiable, args)

        def fun(*varied):
            outputs = program.evaluate(merge(differentiable, varied, fixed), program.outputs)
            return [x for x in outputs if is_differentiable(jax.typeof(x))]

        outputs, vjp = jax.vjp(fun, *varied)
        vjp(jax.tree.map(jax.numpy.zeros_like, outputs))  # some derivatives turn out to be missing only here
        return like.evaluate(args, inner), jax.tree.leaves(vjp)

    try:
        closed = jax.make_jaxpr(forward)(*map(without_weak_type, avals))
    except Exception:  # a rule is missing, an axis has no name, or a user's own rule fails in its own way
        return None
    merged = flatten(closed)
    kept = frozenset(v for v in merged.outputs[len(inner) :] if not isinstance(v, Literal))
    number = dict(zip(like.inputs, merged.inputs, strict=True)) | dict(
        zip(inner, merged.outputs, strict=False)
    )
    return frozenset(v for v, n in number.items() if not isinstance(n, Literal) and n in kept)


def split(mask: Sequence[bool], items: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """The items where the mask holds, and the others."""
    pairs = list(zip(mask, items, strict=True))
    return [x for m, x in pairs if m], [x for m, x in pairs if not m]


def merge(mask: Sequence[bool], chosen: Sequence[Any], others: Sequence[Any]) -> list[Any]:
    """Undo `split`."""
    fill, rest = iter(chosen), iter(others)
    return [next(fill) if m else next(rest) for m in mask]


def with_fill(mask: Sequence[bool], chosen: Sequence[Any], fill: Any) -> list[Any]:
    """The chosen items where the mask holds, and `fill` elsewhere."""
    return merge(mask, chosen, [fill] * mask.count(False))
