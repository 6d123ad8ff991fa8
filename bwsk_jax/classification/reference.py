"""What the PyTorch reference takes to erase, seen in equations.

The reference has a table of kinds of modules. By it these erase: dropout, activation functions (but neither
softplus nor the leaky relu), softmax, pooling, strided convolutions, and batch normalisation that takes its
statistics from the batch. All else preserves, projections and look-ups too. An equation has no kind of
module, so each kind is known by the equations that only it is made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jax.extend.core import primitives as p

from bwsk_jax.classification.equations import ClassifiedEquation, Verdict
from bwsk_jax.classification.values import Role, ValueInfo
from bwsk_jax.engine.program.jaxprs import Equation
from bwsk_jax.engine.program.types import is_differentiable, size

__all__ = ["preserves_by_reference", "reference_verdict"]

DRAWS = {p.random_bits_p, p.threefry2x32_p, p.rng_bit_generator_p, p.rng_uniform_p}
"""What dropout is known by."""
ACTIVATIONS = {p.tanh_p, p.erf_p, p.erfc_p, p.logistic_p, p.max_p, p.expm1_p}
"""What activation functions are known by. A layer norm may call one too, to clip its variance: so it has to
work on values as large as the module's largest."""
WINDOWS = {p.reduce_window_p, p.reduce_window_sum_p, p.reduce_window_max_p, p.reduce_window_min_p}
"""What pooling over windows is known by."""
SUMS = {p.reduce_sum_p, p.psum_p}
REDUCTIONS = {*SUMS, p.reduce_max_p, p.reduce_min_p, p.reduce_prod_p}
CONTRACTIONS = {p.dot_general_p, p.conv_general_dilated_p}
MASKS = {p.select_n_p, p.mul_p, p.convert_element_type_p, p.reshape_p, p.transpose_p}
"""What may stand between the exponentials of a softmax and their sum."""


def reference_verdict(equation: Equation, info: ValueInfo) -> Verdict:
    """K if a kind of module that erases by the reference's count is known by this equation, else S."""
    if what := _erasing_kind(equation, info):
        return Verdict("K", f"the reference counts {what} as erasing")
    return Verdict("S", "the reference counts this as preserving")


def _erasing_kind(equation: Equation, info: ValueInfo) -> str:
    """The kind of module that erases and has this equation; "" if there is none."""
    primitive = equation.primitive
    if primitive in DRAWS:
        return "dropout"
    if primitive in ACTIVATIONS and not _is_preserved(equation, info):
        return "activation functions"
    if primitive is p.exp_p and not _summed(info).isdisjoint(equation.outputs):
        return "softmax"
    if primitive in WINDOWS:
        return "pooling"
    if primitive is p.conv_general_dilated_p and max(equation.params["window_strides"], default=1) > 1:
        return "strided convolutions"
    if primitive in REDUCTIONS and is_differentiable(equation.in_avals[0]):
        return _kind_of_reduction(equation, info)
    return ""


def _kind_of_reduction(equation: Equation, info: ValueInfo) -> str:
    """What a reduction of floats erases: nothing if it is of parameters, or normalises each example alone."""
    axes, aval = equation.params["axes"], equation.in_avals[0]
    reduced = max((info.role(v) for v in equation.reads), default=Role.KNOWN)
    if reduced is Role.KNOWN or size(aval) == size(equation.out_avals[0]):  # a sum over devices keeps sizes
        return ""
    if not _is_spread(equation, info):
        return "pooling"
    over_examples = 0 in axes and len(axes) < len(aval.shape) and equation.primitive in SUMS
    return "statistics over a batch" if over_examples else ""


def _is_spread(equation: Equation, info: ValueInfo) -> bool:
    """Whether the result of a reduction meets values of the operand's size again, as in a normalisation."""
    whole, derived = size(equation.in_avals[0]), set(equation.outputs)
    equations = info.program.equations
    for reader in equations[equations.index(equation) + 1 :]:
        if derived.isdisjoint(reader.reads) or reader.primitive in CONTRACTIONS:
            continue
        if any(size(aval) >= whole for aval in reader.out_avals):
            return True
        derived.update(reader.outputs)
    return False


def _summed(info: ValueInfo) -> set[int]:
    """The values whose elements are added up, as they are or masked."""
    found: set[int] = set()
    for equation in reversed(info.program.equations):
        hands_on = equation.primitive in MASKS and not found.isdisjoint(equation.outputs)
        if equation.primitive is p.reduce_sum_p or hands_on:
            found.update(equation.reads)
    return found


def _is_preserved(equation: Equation, info: ValueInfo) -> bool:
    """Whether it is part of a function that preserves as a whole, by the reference's count too."""
    return any(
        occurrence.function.reference_preserves and equation in occurrence.equations
        for occurrence in info.functions
    )


def preserves_by_reference(module: Sequence[ClassifiedEquation], info: ValueInfo) -> bool:
    """Whether no kind of module that erases is known by the module's equations."""
    largest_of = lambda classified: max(map(size, classified.equation.out_avals), default=0)
    largest = max(map(largest_of, module))
    needs_size: Any = ACTIVATIONS | {p.exp_p}
    erasing = [classified for classified in module if classified.verdict.kind == "K"]
    return not any(
        largest_of(each) == largest or each.equation.primitive not in needs_size for each in erasing
    )
