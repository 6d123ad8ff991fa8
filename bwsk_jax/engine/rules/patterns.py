"""What several equations together say of a value, which none of them says by itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from jax.extend.core import Literal
from jax.extend.core import primitives as p

from bwsk_jax.engine.program.jaxprs import Equation, literal_value

__all__ = ["is_sum_of_no_number", "reads_one_twice", "subtracts_largest", "sums_softmax"]

Makers = Mapping[int, Equation]
"""The equation that defines each value."""


def reads_one_twice(equation: Equation) -> bool:
    """Whether both operands are the same value."""
    return len(equation.reads) == 2 and len(set(equation.reads)) == 1


def is_sum_of_no_number(choice: Equation, makers: Makers) -> bool:
    """Whether the second case of a choice is a + b, taken where a - b is no number, as `logaddexp` does it.

    The sum is then infinite or no number either, and bounds are about finite numbers.
    """
    made_by = lambda atom, kind: _made_by(makers, atom, kind)
    test, total = made_by(choice.inputs[0], p.ne_p), made_by(choice.inputs[-1], p.add_p)
    if len(choice.inputs) != 3 or test is None or total is None or not reads_one_twice(test):
        return False
    difference = made_by(test.inputs[0], p.sub_p)
    return difference is not None and _same(difference.inputs, total.inputs)


def _made_by(makers: Makers, atom: int | Literal, primitive: Any) -> Equation | None:
    """The equation that gave a value, if it is of this primitive."""
    equation = None if isinstance(atom, Literal) else makers.get(atom)
    return equation if equation is not None and equation.primitive is primitive else None


def _same(atoms: Sequence[int | Literal], others: Sequence[int | Literal]) -> bool:
    key = lambda atom: (True, literal_value(atom)) if isinstance(atom, Literal) else (False, atom)
    return list(map(key, atoms)) == list(map(key, others))


def subtracts_largest(difference: Equation, makers: Makers) -> bool:
    """Whether each element of the second operand is no less than the largest of several, among them the first
    operand's element in the same place. Softmax subtracts such a maximum.
    """
    return _largest_over(difference, makers, lambda equation: equation.primitive is p.max_p) is not None


def sums_softmax(total: Equation, makers: Makers) -> bool:
    """Whether it is the sum in a softmax: of exponentials, among which is that of 0."""
    cast = _made_by(makers, total.inputs[0], p.convert_element_type_p)
    exponential = _made_by(makers, cast.inputs[0] if cast else total.inputs[0], p.exp_p)
    difference = exponential and _made_by(makers, exponential.inputs[0], p.sub_p)
    axes = None if difference is None else _largest_over(difference, makers, _is_no_bound)
    return axes is not None and axes <= set(total.params["axes"])


def _is_no_bound(equation: Equation) -> bool:
    """Whether it takes the larger one of a value and of what no number is less than."""
    return equation.primitive is p.max_p and -math.inf in map(literal_value, equation.inputs)


def _largest_over(
    difference: Equation, makers: Makers, through: Callable[[Equation], bool]
) -> set[int] | None:
    """The axes over which the second operand is the largest of the first one's elements, or what became of it
    `through` equations of it and constants; None if it is not.
    """
    value, largest = difference.inputs
    ranks = [len(aval.shape) for aval in difference.in_avals]
    origins = list(_origins(value, ranks[0], makers))
    for atom, axes in _origins(largest, ranks[1], makers, through):
        equation = _made_by(makers, atom, p.reduce_max_p)
        if equation is not None:
            reduced = equation.params["axes"]
            kept = lambda own, reduced=reduced: [axis for k, axis in enumerate(own) if k not in reduced]
            for source, own in origins:
                if source == equation.inputs[0] and axes == kept(own):
                    return {own[k] for k in reduced}
    return None


def _origins(
    atom: int | Literal,
    rank: int,
    makers: Makers,
    through: Callable[[Equation], bool] = lambda equation: False,
) -> Iterator[tuple[int, list[int]]]:
    """A value of this rank and those that it was spread or moved from, also `through` equations of one value
    and constants. Each comes with the axes of the first value that its own axes became.
    """
    axes = list(range(rank))
    while not isinstance(atom, Literal):
        yield atom, axes
        equation = makers.get(atom)
        if equation is None or len(equation.reads) != 1:
            return
        if equation.primitive is p.broadcast_in_dim_p:
            axes = [axes[k] for k in equation.params["broadcast_dimensions"]]
        elif equation.primitive is p.transpose_p:
            axes = [axes[equation.params["permutation"].index(k)] for k in range(len(axes))]
        elif equation.primitive is not p.stop_gradient_p and not through(equation):
            return
        (atom,) = equation.reads
