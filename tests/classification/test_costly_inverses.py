"""Every costly inverse gives back its operand as exactly as its grade promises."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import primitives as p

from bwsk_jax.classification.costly_inverses import COSTLY_INVERSES, moves
from bwsk_jax.classification.values import Role, ValueInfo
from bwsk_jax.engine.program import jaxprs
from bwsk_jax.engine.rules.exactness import Grade
from tests.support.rule_cases import (
    FLOATS,
    TWO,
    Case,
    check_round_trip,
    draw,
    equation_of,
    program_of,
    round_trips,
)

GUARDED, ROUNDED = Grade.GUARDED, Grade.ROUNDED


def costly(equation, program):
    info = ValueInfo(program, [Role.ARGUMENT] * len(program.inputs))
    return list(COSTLY_INVERSES[equation.primitive](equation, info))


def einsum(spec):
    return functools.partial(jnp.einsum, spec)


def pointwise(numbers):
    return lambda x, k: lax.conv_general_dilated(x, k, (1, 1), "VALID", dimension_numbers=numbers)


def patches(strides, padding):
    return lambda x, k: lax.conv_general_dilated(
        x, k, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def depthwise(groups):
    return lambda x, k: lax.conv_general_dilated(
        x, k, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
    )


def symmetric(x):
    return x + jnp.swapaxes(x, -1, -2)


def dominant(a):
    return a + 9 * jnp.eye(4, dtype=a.dtype)


def sorted_with(numbers):
    """Sort rows together with what numbers their elements, or does not."""
    return lambda x: lax.sort((x, numbers(x)), dimension=1, num_keys=1)


def numbered(x):
    return lax.broadcasted_iota(jnp.int32, x.shape, 1)


def solve_triangular(**params):
    return lambda a, b: lax.linalg.triangular_solve(a + 4 * jnp.eye(4, dtype=a.dtype), b, **params)


def cholesky(x):
    return jnp.linalg.cholesky(x @ x.T + jnp.eye(3, dtype=x.dtype))


WRAP, UNWRAP = moves._WRAP, moves._UNWRAP
WORDS, INTEGERS = ("uint32",), ("int8", "uint8", "int32", "uint32")
MATRICES = ("float32", "float64", "complex64")
wrap = lambda words, implementation: jax.random.wrap_key_data(words, impl=implementation)

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
    # patches
    *(
        Case(p.conv_general_dilated_p, patches(stride, padding), found, shapes=shapes)
        for stride, padding, found, shapes in (
            ((2, 3), "VALID", {0: GUARDED}, ((2, 4, 9, 3), (2, 3, 3, 20))),
            ((2, 3), "VALID", {}, ((2, 4, 9, 3), (2, 3, 3, 17))),
            ((2, 3), "VALID", {}, ((2, 5, 9, 3), (2, 3, 3, 20))),  # a row of pixels is left over
            ((2, 3), "SAME", {0: GUARDED}, ((2, 5, 8, 3), (2, 3, 3, 20))),  # and here padded
            ((2, 3), ((1, 0), (1, 2)), {0: GUARDED}, ((2, 5, 9, 2), (2, 3, 2, 12))),
            ((2, 3), ((-1, 1), (0, 0)), {}, ((2, 4, 9, 3), (2, 3, 3, 20))),
            ((1, 2), "VALID", {}, ((2, 4, 8, 3), (2, 2, 3, 20))),  # windows overlap
            ((2, 3), "VALID", {}, ((2, 4, 9, 3), (2, 2, 3, 20))),  # and leave gaps
        )
    ),
    Case(p.conv_general_dilated_p, depthwise(3), {0: GUARDED}, low=0.5, shapes=((2, 4, 5, 3), (1, 1, 1, 3))),
    Case(p.conv_general_dilated_p, depthwise(3), {0: GUARDED}, low=0.5, shapes=((2, 4, 5, 3), (1, 1, 1, 6))),
    Case(p.conv_general_dilated_p, depthwise(2), {0: GUARDED}, shapes=((2, 4, 5, 6), (1, 1, 3, 8))),
    Case(p.conv_general_dilated_p, depthwise(2), {}, shapes=((2, 4, 5, 6), (1, 1, 3, 4))),
    Case(p.conv_general_dilated_p, depthwise(3), {}, shapes=((2, 4, 5, 3), (3, 3, 1, 3))),
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
    *(
        Case(
            p.qr_p, lambda x, mode=mode: jnp.linalg.qr(x, mode), {0: ROUNDED}, shapes=(shape,), types=MATRICES
        )
        for mode in ("reduced", "complete")
        for shape in ((4, 4), (2, 5, 3), (3, 5))
    ),
    Case(p.qr_p, lambda x: jax.scipy.linalg.qr(x, pivoting=True), {0: ROUNDED}, shapes=((3, 4),)),
    *(
        Case(
            p.svd_p,
            lambda x, full=full: jnp.linalg.svd(x, full_matrices=full),
            {0: ROUNDED},
            shapes=(shape,),
            types=MATRICES,
        )
        for full in (False, True)
        for shape in ((4, 4), (2, 5, 3), (3, 5))
    ),
    Case(p.svd_p, lambda x: jnp.linalg.svd(x, compute_uv=False), {}),
    Case(p.eigh_p, lambda x: jnp.linalg.eigh(symmetric(x)), {0: GUARDED}, shapes=((2, 4, 4),)),
    Case(p.eig_p, jnp.linalg.eig, {0: GUARDED}, shapes=((2, 4, 4),), types=("float32", "complex64")),
    Case(p.schur_p, jax.scipy.linalg.schur, {0: ROUNDED}, shapes=((4, 4),), types=MATRICES),
    *(
        Case(p.lu_p, lax.linalg.lu, {0: ROUNDED}, shapes=(shape,), types=MATRICES)
        for shape in ((4, 4), (2, 5, 3), (3, 5))
    ),
    Case(
        lax.linear_solve_p,
        lambda a, b: jnp.linalg.solve(dominant(a), b),
        {3 + 3: GUARDED},
        shapes=((4, 4), (4,)),
        types=MATRICES,
    ),
    Case(
        lax.linear_solve_p, lambda a: jnp.linalg.inv(dominant(a)), {0: GUARDED, 6: GUARDED}, shapes=((4, 4),)
    ),
    Case(
        lax.linear_solve_p,
        lambda a, b: jnp.linalg.solve(dominant(a), b),
        {0: GUARDED, 6: GUARDED},
        shapes=((4, 4), (4, 5)),
    ),
    Case(
        lax.linear_solve_p,
        lambda a, b: jnp.linalg.solve(dominant(a), b),
        {6: GUARDED},
        shapes=((4, 4), (4, 3)),
    ),
    Case(
        p.tridiagonal_solve_p,
        lambda lower, diagonal, upper, b: lax.linalg.tridiagonal_solve(lower, diagonal + 9, upper, b),
        {3: GUARDED},
        shapes=((5,), (5,), (5,), (5, 2)),
    ),
    # what hands an operand on
    Case(p.max_p, lambda x: jnp.maximum(x, -jnp.inf), {0: Grade.EXACT}, types=FLOATS),
    Case(p.max_p, lambda x: jnp.maximum(jnp.full((), -jnp.inf), x[0, 0]), {1: Grade.EXACT}),
    Case(p.min_p, lambda x: jnp.minimum(jnp.inf, x), {1: Grade.EXACT}, types=FLOATS),
    Case(p.max_p, lambda x: jnp.maximum(jnp.exp(x), 0), {0: Grade.RELATIVE}),
    Case(p.max_p, lambda x: jnp.maximum(jnp.tanh(x), -2), {0: Grade.RELATIVE}),
    *(Case(p.max_p, lambda x, c=c: jnp.maximum(x, c), {}) for c in (0, jnp.inf, -3e38)),
    Case(p.max_p, lambda x: jnp.maximum(jnp.log(x), float(jnp.finfo(x.dtype).min)), {}),
    Case(p.min_p, lambda x: jnp.minimum(x, -jnp.inf), {}),
    Case(p.max_p, lax.max, {}, shapes=TWO),
    Case(
        p.max_p,
        lambda x: lax.max(x, jnp.asarray(jnp.iinfo(x.dtype).min, x.dtype)),
        {0: Grade.EXACT},
        types=INTEGERS,
    ),
    Case(
        p.min_p,
        lambda x: lax.min(x, jnp.asarray(jnp.iinfo(x.dtype).max, x.dtype)),
        {0: Grade.EXACT},
        types=INTEGERS,
    ),
    Case(
        p.min_p,
        lambda x: lax.min(x, jnp.asarray(jnp.iinfo(x.dtype).max - 1, x.dtype)),
        {},
        types=(*INTEGERS, "int64"),
    ),
    Case(p.clamp_p, lambda x: lax.clamp(-jnp.inf, x, jnp.inf), {1: Grade.EXACT}),
    Case(p.clamp_p, lambda x: lax.clamp(0.0, lax.logistic(x), 1.0), {1: Grade.RELATIVE}),
    Case(p.clamp_p, lambda x: lax.clamp(-1.0, x, jnp.inf), {}),
    Case(p.and_p, lambda x: x & -1, {0: Grade.EXACT}, types=("int8", "int32")),
    Case(p.and_p, lambda x: x & True, {0: Grade.EXACT}, types=("bool",)),
    Case(p.and_p, lambda x: x & 3, {}, types=("int32",)),
    Case(p.or_p, lambda x: x | 0, {0: Grade.EXACT}, types=("int32", "uint32")),
    Case(p.or_p, lambda x: x | 1, {}, types=("int32",)),
    # integers
    *(Case(p.mul_p, lambda x, c=c: x * c, {0: Grade.EXACT}, types=INTEGERS) for c in (1, 3, 5, 101, 127)),
    Case(p.mul_p, lambda x: x * -7, {0: Grade.EXACT}, types=("int8", "int32", "int64")),
    Case(p.mul_p, lambda x: 6 * x, {}, types=INTEGERS),
    *(
        Case(p.convert_element_type_p, lambda x, t=target: x.astype(t), {0: Grade.EXACT}, types=sources)
        for target, sources in (
            ("uint8", ("int8",)),
            ("int8", ("uint8",)),
            ("uint32", ("int8", "int16", "int32")),
            ("int32", ("uint32", "uint8")),
            ("uint16", ("int8", "int16")),
        )
    ),
    Case(p.convert_element_type_p, lambda x: x.astype("uint8"), {}, types=("int16", "uint32", "float32")),
    # orders
    Case(p.sort_p, sorted_with(numbered), {0: Grade.EXACT}, types=(*FLOATS, "int8", "bool")),
    Case(p.sort_p, sorted_with(lambda x: numbered(x).T), {}, shapes=((4, 4),)),
    Case(p.sort_p, sorted_with(lambda x: numbered(x) * 0), {}),
    Case(p.sort_p, sorted_with(lambda x: jnp.broadcast_to(lax.iota(jnp.int32, 1), x.shape)), {}),
    Case(p.sort_p, sorted_with(lambda x: numbered(x).astype("float16")), {}),
    Case(p.sort_p, sorted_with(lambda x: lax.iota(jnp.int8, 200)[None]), {}, shapes=((1, 200),)),
    Case(p.sort_p, jax.vmap(lambda x: lax.sort_key_val(x, jnp.arange(4))), {0: Grade.EXACT}),
    Case(p.sort_p, lambda x: lax.sort(x), {}),
    Case(p.top_k_p, lambda x: lax.top_k(x, 4), {0: Grade.EXACT}, types=("float32", "int8", "bfloat16")),
    Case(p.top_k_p, lambda x: lax.top_k(x, 3), {}),
    # keys for random numbers
    *(
        case
        for name, words in (("threefry2x32", 2), ("rbg", 4), ("unsafe_rbg", 4))
        for case in (
            Case(WRAP, lambda x, n=name: wrap(x, n), {0: Grade.EXACT}, shapes=((3, words),), types=WORDS),
            Case(
                UNWRAP,
                lambda x, n=name: jax.random.key_data(wrap(x, n)),
                {0: Grade.EXACT},
                shapes=((3, words),),
                types=WORDS,
            ),
            Case(
                p.random_seed_p,
                lambda x, n=name: jax.vmap(lambda seed: jax.random.key(seed, impl=n))(x),
                {0: Grade.EXACT},
                shapes=((5,),),
                types=("int8", "uint16", "int32", "uint32", "int64", "uint64"),
            ),
            Case(
                p.random_fold_in_p,
                lambda x, m, n=name: jax.vmap(jax.random.fold_in)(wrap(x, n), m),
                {int(name != "unsafe_rbg"): Grade.EXACT},
                shapes=((5, words), (5,)),
                types=WORDS,
            ),
            Case(
                p.random_fold_in_p,
                lambda x, m, n=name: jax.vmap(jax.random.fold_in, (None, 0))(wrap(x, n), m),
                {} if name == "unsafe_rbg" else {1: Grade.EXACT},
                shapes=((words,), (5,)),
                types=WORDS,
            ),
        )
    ),
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
    Case(p.scatter_add_p, lambda x, u: x.at[1].add(u), {0: ROUNDED, 2: GUARDED}, shapes=((3, 4), (4,))),
    Case(
        lax.scatter_sub_p,
        lambda x, u: x.at[1:].subtract(u),
        {0: ROUNDED, 2: GUARDED},
        shapes=((3, 4), (2, 4)),
    ),
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
    call = lambda x: lax.reduce_precision(x, 8, 7)
    equation, _, outputs = equation_of(call, p.reduce_precision_p, x)
    (inverse,) = costly(equation, program_of(call, x))
    assert inverse.grade is Grade.NARROWED
    assert (abs(inverse.apply([None], outputs) - x) <= abs(x) * 2.0**-8).all()


def test_a_permutation_of_devices_is_undone():
    around = [(k, (k + 1) % 4) for k in range(4)]
    send = lambda x: lax.ppermute(x, "i", around)
    program = jaxprs.flatten(jax.make_jaxpr(send, axis_env=[("i", 4)])(1.0))
    (inverse,) = costly(*program.equations, program)
    x = jnp.arange(4.0)
    back = lambda x: inverse.apply([None], [send(x)])
    assert (jax.vmap(back, axis_name="i")(x) == x).all()
    assert (jax.vmap(send, axis_name="i")(x) != x).any()
    lossy = lambda x: lax.ppermute(x, "i", around[:3])
    program = jaxprs.flatten(jax.make_jaxpr(lossy, axis_env=[("i", 4)])(1.0))
    assert costly(*program.equations, program) == []


def test_every_costly_inverse_is_tested():
    tested_apart = {p.reduce_precision_p, p.ppermute_p, *jaxprs.present("pvary_p")}
    assert set(COSTLY_INVERSES) == {case.primitive for case in CASES} | tested_apart
