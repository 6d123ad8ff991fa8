"""Every costly inverse gives back its operand as exactly as its grade promises."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import primitives as p

from bwsk_jax.classification.costly_inverses import COSTLY_INVERSES
from bwsk_jax.engine.program import jaxprs
from bwsk_jax.engine.rules.exactness import Grade
from bwsk_jax.engine.rules.intervals import ANY
from tests.support.rule_cases import Case, check_round_trip, draw, equation_of, round_trips

GUARDED, ROUNDED = Grade.GUARDED, Grade.ROUNDED


def costly(equation):
    return list(COSTLY_INVERSES[equation.primitive](equation, lambda _: ANY))


def einsum(spec):
    return functools.partial(jnp.einsum, spec)


def pointwise(numbers):
    return lambda x, k: lax.conv_general_dilated(x, k, (1, 1), "VALID", dimension_numbers=numbers)


def solve_triangular(**params):
    return lambda a, b: lax.linalg.triangular_solve(a + 4 * jnp.eye(4, dtype=a.dtype), b, **params)


def cholesky(x):
    return jnp.linalg.cholesky(x @ x.T + jnp.eye(3, dtype=x.dtype))


CASES = [
    Case(p.dot_general_p, lax.dot, {0: GUARDED}, shapes=((3, 4), (4, 9))),
    Case(p.dot_general_p, lax.dot, {1: GUARDED}, shapes=((9, 4), (4, 3))),
    Case(p.dot_general_p, lax.dot, {0: GUARDED, 1: GUARDED}, shapes=((9, 4), (4, 8))),
    Case(p.dot_general_p, lax.dot, {}, shapes=((3, 4), (4, 2))),
    Case(p.dot_general_p, lax.dot, {1: GUARDED}, shapes=((8, 4), (4,))),
    Case(p.dot_general_p, einsum("bqhd,bkhd->bhqk"), {0: GUARDED}, shapes=((2, 3, 2, 4), (2, 9, 2, 4))),
    Case(p.dot_general_p, einsum("xaby,yabc->xc"), {1: GUARDED}, shapes=((40, 2, 2, 3), (3, 2, 2, 5))),
    Case(p.dot_general_p, lax.dot, {}, shapes=((3, 3), (3, 3)), types=("int32",)),
    Case(p.dot_general_p, lax.dot, {0: GUARDED}, shapes=((3, 4), (4, 9)), types=("complex64",)),
    Case(p.dot_general_p, lambda x: x @ x, {}, shapes=((3, 3),)),
    Case(
        p.conv_general_dilated_p,
        pointwise(("NCHW", "OIHW", "NCHW")),
        {0: GUARDED},
        shapes=((2, 3, 4, 5), (7, 3, 1, 1)),
    ),
    Case(
        p.conv_general_dilated_p,
        pointwise(("NHWC", "HWIO", "NHWC")),
        {0: GUARDED},
        shapes=((2, 4, 5, 3), (1, 1, 3, 7)),
    ),
    Case(
        p.conv_general_dilated_p, pointwise(("NCHW", "OIHW", "NCHW")), {}, shapes=((2, 3, 4, 5), (2, 3, 1, 1))
    ),
    Case(
        p.conv_general_dilated_p, pointwise(("NCHW", "OIHW", "NCHW")), {}, shapes=((2, 3, 4, 5), (7, 3, 2, 2))
    ),
    Case(p.cumsum_p, lambda x: lax.cumsum(x, 1), {0: ROUNDED}),
    Case(p.cumsum_p, lambda x: lax.cumsum(x, 0, reverse=True), {0: ROUNDED}),
    Case(p.cumsum_p, lambda x: lax.cumsum(x, 1), {0: Grade.EXACT}, types=("int32", "uint32")),
    Case(p.cumprod_p, lambda x: lax.cumprod(x, 1), {0: GUARDED}, low=0.5),
    Case(p.cumprod_p, lambda x: lax.cumprod(x, 1), {}, types=("int32",)),
    Case(p.cumprod_p, lambda x: lax.cumprod(x, 1), {0: GUARDED}, low=0.5, types=("complex64",)),
    Case(p.cumlogsumexp_p, lambda x: lax.cumlogsumexp(x, 1, reverse=True), {0: GUARDED}),
    Case(p.fft_p, jnp.fft.fft, {0: ROUNDED}, types=("complex64", "complex128")),
    Case(p.fft_p, jnp.fft.ifft2, {0: ROUNDED}, types=("complex64", "complex128")),
    Case(p.fft_p, jnp.fft.rfft, {0: ROUNDED}, shapes=((3, 8),)),
    Case(p.fft_p, jnp.fft.rfft2, {0: ROUNDED}, shapes=((4, 7),)),
    Case(p.fft_p, jnp.fft.irfft, {}, shapes=((3, 5),), types=("complex64",)),
    *(
        Case(p.triangular_solve_p, solve_triangular(**params), {1: ROUNDED}, shapes=((4, 4), (4, 4)))
        for params in (
            {"left_side": True, "lower": True},
            {"left_side": False, "lower": False, "transpose_a": True},
            {"left_side": True, "lower": False, "unit_diagonal": True, "transpose_a": True},
        )
    ),
    Case(p.cholesky_p, cholesky, {0: GUARDED}, shapes=((3, 5),)),
    Case(p.add_p, lambda x: x + x, {0: Grade.RELATIVE}),
    Case(p.add_p, lax.add, {1: ROUNDED}, shapes=((3, 4), (1, 4))),
    Case(p.add_p, lax.add, {1: Grade.EXACT}, shapes=((3, 4), (1, 4)), types=("int32",)),
    Case(p.add_p, p.add_p.bind, {0: ROUNDED}, shapes=((), (3, 4))),
    Case(p.sub_p, lax.sub, {0: ROUNDED}, shapes=((3, 1), (3, 4))),
    Case(p.sub_p, lax.sub, {1: ROUNDED}, shapes=((3, 4), (3, 1))),
    Case(p.mul_p, lax.mul, {0: GUARDED, 1: GUARDED}, low=0.5, shapes=((3, 1), (1, 4))),
    Case(p.mul_p, lax.mul, {}, shapes=((3, 1), (1, 4)), types=("int32",)),
    Case(p.div_p, lax.div, {0: GUARDED, 1: GUARDED}, low=0.5, shapes=((3, 1), (1, 4))),
    Case(p.div_p, lax.div, {}, low=0.5, shapes=((0, 1), (0, 4))),
    Case(p.pow_p, lax.pow, {0: GUARDED, 1: GUARDED}, low=1.5, shapes=((3, 4), (3, 4))),
    *(Case(p.pow_p, lambda x, a=a: lax.pow(x, a), {}) for a in (0.0, jnp.inf)),
    *(Case(p.pow_p, lambda x, a=a: lax.pow(a, x), {}) for a in (1.0, -2.0)),
    Case(p.slice_p, lambda x: lax.slice(x, (0, 0), (3, 4), (1, 1)), {0: Grade.EXACT}),
    Case(p.slice_p, lambda x: lax.slice(x, (0, 0), (3, 4), (1, 2)), {}),
    Case(p.dynamic_slice_p, lambda x: lax.dynamic_slice(x, (1, jnp.argmax(x[0])), (3, 4)), {0: Grade.EXACT}),
    *(
        Case(primitive, lambda x, reduce=reduce: reduce(x, 0), {0: Grade.EXACT}, shapes=((1, 4),))
        for primitive, reduce in (
            *((p.reduce_sum_p, jnp.sum), (p.reduce_prod_p, jnp.prod)),
            *((p.reduce_max_p, jnp.max), (p.reduce_min_p, jnp.min)),
        )
    ),
    *(
        Case(primitive, lambda x, r=reduce: r(x, (0,)), {0: Grade.EXACT}, shapes=((1, 4),), types=("bool",))
        for primitive, reduce in (
            *((p.reduce_and_p, lax.reduce_and), (p.reduce_or_p, lax.reduce_or)),
            (p.reduce_xor_p, lax.reduce_xor),
        )
    ),
    Case(p.reduce_sum_p, lambda x: x.sum(0), {}),
    Case(p.scatter_p, lambda x, u: x.at[1:3].set(u), {2: GUARDED}, shapes=((3, 4), (2, 4))),
    Case(p.scatter_p, lambda x, u: x.at[np.array([2, 0])].set(u), {}, shapes=((3, 4), (2, 4))),
    Case(p.atan2_p, lax.atan2, {0: GUARDED}, low=0.5, shapes=((3, 4), (3, 4))),
    Case(p.erfc_p, lax.erfc, {0: GUARDED}, -1.5, 1.5),
    Case(p.scatter_add_p, lambda x, u: x.at[np.array([1, 1, 2])].add(u), {0: ROUNDED}, shapes=((3,), (3,))),
    Case(
        p.scatter_add_p,
        lambda x, u: x.at[np.array([1, 1, 2])].add(u),
        {0: Grade.EXACT},
        shapes=((3,), (3,)),
        types=("int32",),
    ),
    Case(
        lax.scatter_sub_p, lambda x, u: x.at[np.array([0, 2])].subtract(u), {0: ROUNDED}, shapes=((3,), (2,))
    ),
    Case(
        p.scatter_mul_p,
        lambda x, u: x.at[np.array([0, 2])].multiply(u),
        {0: GUARDED},
        0.5,
        shapes=((3,), (2,)),
    ),
    Case(p.device_put_p, jax.device_put, {0: Grade.EXACT}, types=("float32", "int8")),
]


@pytest.mark.parametrize(("case", "dtype"), round_trips(CASES))
def test_a_costly_inverse_gives_back_its_operand_to_its_grade(case, dtype):
    check_round_trip(case, dtype, costly)


def test_reduced_precision_is_recovered_to_that_precision():
    x = draw(np.random.default_rng(0), CASES[0], (50,), "float32")
    equation, _, outputs = equation_of(lambda x: lax.reduce_precision(x, 8, 7), p.reduce_precision_p, x)
    (inverse,) = costly(equation)
    assert inverse.grade is Grade.NARROWED
    assert (abs(inverse.apply([None], outputs) - x) <= abs(x) * 2.0**-8).all()


def test_a_permutation_of_devices_is_undone():
    around = [(k, (k + 1) % 4) for k in range(4)]
    send = lambda x: lax.ppermute(x, "i", around)
    (equation,) = jaxprs.flatten(jax.make_jaxpr(send, axis_env=[("i", 4)])(1.0)).equations
    (inverse,) = costly(equation)
    x = jnp.arange(4.0)
    back = lambda x: inverse.apply([None], [send(x)])
    assert (jax.vmap(back, axis_name="i")(x) == x).all()
    assert (jax.vmap(send, axis_name="i")(x) != x).any()
    lossy = lambda x: lax.ppermute(x, "i", around[:3])
    (equation,) = jaxprs.flatten(jax.make_jaxpr(lossy, axis_env=[("i", 4)])(1.0)).equations
    assert costly(equation) == []


def test_every_costly_inverse_is_tested():
    tested_apart = {p.reduce_precision_p, p.ppermute_p, *jaxprs.present("pvary_p")}
    assert set(COSTLY_INVERSES) == {case.primitive for case in CASES} | tested_apart
