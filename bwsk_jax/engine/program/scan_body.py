"""The body of a scan as a program over flat lists: (constants, carry, x) -> (carry, y)."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import jax
from jax import lax
from jax.extend.core import Literal

from bwsk_jax.engine.program.eager import remembered, traced
from bwsk_jax.engine.program.hoisting import hoisted
from bwsk_jax.engine.program.jaxprs import Program, flatten
from bwsk_jax.engine.program.types import is_differentiable, on_mesh_of, slice_type, stacked_type, type_of
from bwsk_jax.engine.program.vjp import VjpTrace, depending, split, trace_vjp, with_fill

__all__ = ["Item", "ScanBody", "trace_body", "trace_iteration"]

Item = TypeVar("Item")


@dataclasses.dataclass(frozen=True, eq=False)
class ScanBody:
    """One iteration of a scan: a program of (constants, carry, x) -> (carry, y), all flat.

    The constants are what `before` makes of the values that the body closes over. Their tracers are not part
    of this object, because JAX keeps the rules of a derivative, which hold it, longer than a tracer may live.

    Attributes:
      before: what is computed once for all iterations, of the values that the body closes over.
      program: the body.
      varied: which of its inputs it is differentiated with respect to.
      out_tree: the structure of `(carry, y)`.
      out_avals: the types that `lax.scan` gives its results, those of the carry first.
      num_consts: how many of the program's inputs are constants; they come first.
      num_carry: how many inputs, after the constants, and how many outputs, from the first, are the carry.
      length: the number of iterations.
      rules: the derivatives that were made of it, by what was asked for; they live as long as it does.
    """

    before: Program
    program: Program
    varied: tuple[bool, ...]
    out_tree: Any
    out_avals: list[Any]
    num_consts: int
    num_carry: int
    length: int
    rules: dict[Hashable, Any] = dataclasses.field(default_factory=dict, repr=False)

    def split_inputs(self, items: Sequence[Item]) -> tuple[Sequence[Item], Sequence[Item], Sequence[Item]]:
        """Split a list with an item for each input into those of the constants, of the carry and of x."""
        first_x = self.num_consts + self.num_carry
        return items[: self.num_consts], items[self.num_consts : first_x], items[first_x:]

    def split_outputs(self, items: Sequence[Item]) -> tuple[Sequence[Item], Sequence[Item]]:
        """Split a list that begins with an item for each leaf of the carry into those and all the others."""
        return items[: self.num_carry], items[self.num_carry :]

    def fed(self, carry: Sequence[bool], ys: Sequence[bool]) -> list[bool]:
        """Which floats of the carry have a cotangent in some iteration, given which floats of the carry and
        of y that the scan returns have one.
        """
        _, carry_mask, _ = self.split_inputs(self.varied)
        carry, before = list(carry), None
        while carry != before and not all(carry):
            reached = with_fill(self.varied, self.vjp.reached([*carry, *ys]), False)
            _, reached, _ = self.split_inputs(reached)
            carry, before = list(map(operator.or_, carry, split(carry_mask, reached)[0])), carry
        return carry

    def reached(self, carry: Sequence[bool], ys: Sequence[bool]) -> list[bool]:
        """Of each input that varies, whether cotangents reach it in some iteration, given the same."""
        carry = self.fed(carry, ys)
        inputs = self.vjp.reached([*carry, *ys]) if self.length else [False] * self.varied.count(True)
        consts, varied_carry, _ = self.split_inputs(self.varied)
        first = consts.count(True)
        inputs[first : first + varied_carry.count(True)] = carry
        return inputs

    def constants(self, closed_over: Sequence[Any]) -> list[Any]:
        """The constants, of the values that the body closes over."""
        return self.before.evaluate(closed_over, self.before.outputs)

    @functools.cached_property
    def vjp(self) -> VjpTrace:
        """One iteration and its derivative."""
        _, varied_carry, _ = self.split_inputs(self.varied)
        _, ys = self.split_outputs(self.out_avals)
        return trace_vjp(self.program, self.varied, (*varied_carry, *map(is_differentiable, ys)))

    def differentiated(self, inputs: Sequence[bool]) -> ScanBody:
        """The same body, but differentiated with respect to these inputs of the scan alone.

        Of the carry that is also what depends on one of them after some iterations.
        """
        outputs, _ = self.split_outputs(self.program.outputs)
        varied, before = tuple(inputs), None
        while varied != before:
            consts, carry, x = self.split_inputs(varied)
            found = depending(self.program, split(varied, self.program.inputs)[0], is_differentiable)
            depends = (not isinstance(v, Literal) and v in found for v in outputs)
            varied, before = (*consts, *map(operator.or_, carry, depends), *x), varied
        return self if varied == self.varied else dataclasses.replace(self, varied=varied, rules={})


def trace_body(
    body: Callable, init: Any, xs: Any, length: int | None, **order: Any
) -> tuple[ScanBody, list[Any]]:
    """Trace `body`; return it and the values that it closes over.

    `lax.scan` checks the arguments first, and its own `reverse` and `unroll` in `order`, so that its own
    messages tell of mistakes in them.
    """
    carry, ys = jax.eval_shape(functools.partial(lax.scan, body, length=length, **order), init, xs)
    carry, carry_tree = jax.tree.flatten(carry)
    carry = list(map(on_mesh_of, jax.tree.leaves(init), map(type_of, carry)))
    out_avals = [*carry, *map(type_of, jax.tree.leaves(ys))]
    stacked = jax.tree.map(type_of, xs)
    first = jax.tree.unflatten(carry_tree, carry)
    closed, out_tree = traced(body, first, jax.tree.map(slice_type, stacked))
    iterations = jax.tree.leaves(stacked)[0].shape[0] if length is None else operator.index(length)

    def scan_body():
        # Not merged, for the scan itself is to compile to what its author would get from `lax.scan`.
        before, program = hoisted(flatten(closed, hoist=True, merged=False), len(closed.consts))
        varied = tuple(is_differentiable(program.avals[v]) for v in program.inputs)
        counts = len(before.outputs), len(carry), iterations
        return ScanBody(before, program, varied, out_tree, out_avals, *counts)

    key = out_tree, tuple(out_avals), len(carry), iterations
    return remembered(closed, key, scan_body), list(closed.consts)


def trace_iteration(body: Callable, carry: Any, x: Any) -> ScanBody:
    """Trace `body` as a scan of one iteration, from the types of its carry and of what one iteration sees."""
    stacked = jax.tree.map(lambda a: stacked_type(type_of(a)), x)
    return trace_body(body, carry, stacked, 1)[0]
