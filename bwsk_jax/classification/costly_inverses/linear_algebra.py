"""Costly inverses of linear algebra: factorisations and solutions are multiplied out again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.extend.core import primitives as p

from bwsk_jax.classification.costly_inverses.contractions import OF_CONTRACTIONS
from bwsk_jax.classification.values import Role, ValueInfo
from bwsk_jax.engine.program.jaxprs import Equation, Program, flatten, read
from bwsk_jax.engine.program.types import is_real
from bwsk_jax.engine.rules.exactness import Grade
from bwsk_jax.engine.rules.inverses import Inverse
from bwsk_jax.engine.rules.registry import inverses_of

__all__ = ["OF_LINEAR_ALGEBRA", "SAME_RESULTS"]


# --- factorisations ----------------------------------------------------------------------------------------


def _adjoint(matrix):
    return jnp.conj(jnp.swapaxes(matrix, -1, -2))


def _cholesky(equation, info):
    """Multiply the factorisation out again."""

    def solve(ins, outs):
        factor = jnp.tril(outs[0])
        return factor @ _adjoint(factor)

    yield Inverse(0, solve, Grade.GUARDED, condition="the operand is Hermitian and positive definite")


def _qr(equation, info):
    """Multiply the factors, and undo the exchange of columns."""

    def solve(ins, outs):
        product = outs[0] @ outs[1]
        if not equation.params["pivoting"]:
            return product
        return jnp.take_along_axis(product, jnp.argsort(outs[2], -1)[..., None, :], -1)

    yield Inverse(0, solve, Grade.ROUNDED, reads=())


def _svd(equation, info):
    """Multiply the factors, if there are singular vectors and no subset of them was asked for."""

    def solve(ins, outs):
        values, left, right = outs
        count = values.shape[-1]
        return (left[..., :count] * values[..., None, :].astype(left.dtype)) @ right[..., :count, :]

    if equation.params["compute_uv"] and equation.params.get("subset_by_index") is None:
        yield Inverse(0, solve, Grade.ROUNDED, reads=())


def _eigh(equation, info):
    """Multiply the factors, if no subset of them was asked for."""

    def solve(ins, outs):
        vectors, values = outs
        return (vectors * values[..., None, :].astype(vectors.dtype)) @ _adjoint(vectors)

    if equation.params.get("subset_by_index") is None:
        yield Inverse(0, solve, Grade.GUARDED, reads=(), condition="the operand is Hermitian")


def _eig(equation, info):
    """Multiply the factors, if the right eigenvectors are among them."""

    def solve(ins, outs):
        values, vectors = outs[0], outs[-1]
        product = (vectors * values[..., None, :]) @ jnp.linalg.inv(vectors)
        operand = equation.in_avals[0]
        return (product.real if is_real(operand) else product).astype(operand.dtype)

    if equation.params["compute_right_eigenvectors"]:
        condition = "the operand is diagonalizable; error grows with the condition of its eigenvectors"
        yield Inverse(0, solve, Grade.GUARDED, reads=(), condition=condition)


def _schur(equation, info):
    """Multiply the factors, if the vectors are among them."""
    if equation.params["compute_schur_vectors"]:
        solve = lambda ins, outs: outs[1] @ outs[0] @ _adjoint(outs[1])
        yield Inverse(0, solve, Grade.ROUNDED, reads=())


def _lu(equation, info):
    """Multiply the factors, and undo the exchange of rows, which is one result in either of two forms."""
    rows, columns = equation.in_avals[0].shape[-2:]
    least = min(rows, columns)

    def solve(ins, outs):
        factors, _, permutation = outs
        lower, upper = jnp.tril(factors[..., :least], -1), jnp.triu(factors[..., :least, :])
        unit = jnp.broadcast_to(jnp.eye(rows, least, dtype=factors.dtype), lower.shape)
        product = (lower + unit) @ upper
        return jnp.take_along_axis(product, jnp.argsort(permutation, -1)[..., None], -2)

    yield Inverse(0, solve, Grade.ROUNDED, reads=())


SAME_RESULTS: dict[Any, frozenset[int]] = {p.lu_p: frozenset({1, 2})}
"""Results that say the same, so that one may be dropped: pivots, and the permutation that they make."""


# --- systems of equations ----------------------------------------------------------------------------------


def _triangular_solve(equation, info):
    """Recover the right-hand side as the matrix times the solution."""
    params = equation.params

    def solve(ins, outs):
        matrix = (jnp.tril if params["lower"] else jnp.triu)(ins[0])
        if params["unit_diagonal"]:
            eye = jnp.broadcast_to(jnp.eye(matrix.shape[-1], dtype=matrix.dtype), matrix.shape)
            matrix = matrix * (1 - eye) + eye
        matrix = jnp.conj(matrix) if params["conjugate_a"] else matrix
        matrix = jnp.swapaxes(matrix, -1, -2) if params["transpose_a"] else matrix
        return matrix @ outs[0] if params["left_side"] else outs[0] @ matrix

    yield Inverse(1, solve, Grade.ROUNDED)


def _tridiagonal_solve(equation, info):
    """Recover the right-hand side as the matrix times the solution."""

    def solve(ins, outs):
        (lower, diagonal, upper), solution = ins[:3], outs[0]
        below = jnp.roll(solution, 1, -2).at[..., 0, :].set(0)
        above = jnp.roll(solution, -1, -2).at[..., -1, :].set(0)
        return lower[..., None] * below + diagonal[..., None] * solution + upper[..., None] * above

    yield Inverse(3, solve, Grade.GUARDED, condition="error grows with the condition number of the matrix")


def _linear_solve(equation, info):
    """Recover the right-hand side as the matrix times the solution, or the matrix from enough solutions."""
    counts, product = equation.params["const_lengths"], flatten(equation.params["jaxprs"].matvec)
    sides, known = sum(counts), tuple(range(counts.matvec))
    sought = len(equation.inputs) - sides

    for k in range(sought):
        right_hand_side = lambda ins, outs, k=k: product.evaluate(
            [*(ins[place] for place in known), *outs[:sought]], product.outputs
        )[k]
        condition = "the solution is one; error grows with the condition number of the matrix"
        yield Inverse(sides + k, right_hand_side, Grade.GUARDED, reads=known, condition=condition)
    if len(known) == sought == 1 and (way_back := _way_back(product)):

        def matrix(ins, outs):
            values = {product.inputs[1]: outs[0], product.outputs[0]: ins[sides]}
            for step, inverse in way_back:
                values[step.inputs[inverse.operand]] = inverse.solve(step, lambda atom: read(values, atom))
            return values[product.inputs[0]]

        condition = "the solutions together have full rank; error grows with their condition number"
        yield Inverse(0, matrix, Grade.GUARDED, reads=(sides,), condition=condition)


def _way_back(product: Program) -> list[tuple[Equation, Inverse]]:
    """The inverses that lead from the product of a matrix and a solution back to the matrix; else none."""
    matrix, solution = product.inputs
    info = ValueInfo(product, [Role.ARGUMENT] * len(product.inputs))
    target, way = product.outputs[0], []
    for step in reversed(product.equations):
        costly = OF_CONTRACTIONS.get(step.primitive, lambda *_: ())
        found = [
            inverse
            for inverse in (*inverses_of(step, info.interval), *costly(step, info))
            if step.outputs == (target,) and {*inverse.side_values(step)} <= {solution}
        ]
        if not found:
            return []
        way.append((step, found[0]))
        target = step.inputs[found[0].operand]
    return way if target == matrix else []


OF_LINEAR_ALGEBRA: dict[Any, Callable[[Equation, ValueInfo], Iterable[Inverse]]] = {
    p.cholesky_p: _cholesky,
    p.qr_p: _qr,
    p.svd_p: _svd,
    p.eigh_p: _eigh,
    p.eig_p: _eig,
    p.schur_p: _schur,
    p.lu_p: _lu,
    p.triangular_solve_p: _triangular_solve,
    p.tridiagonal_solve_p: _tridiagonal_solve,
    lax.linear_solve_p: _linear_solve,
}
"""The part of `COSTLY_INVERSES` that this file gives."""
