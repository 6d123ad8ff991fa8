"""Every K is shown by two inputs with one output, and little of what JAX exports is left without a rule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import Primitive
from jax.extend.core import primitives as p

import bwsk_jax
from bwsk_jax.classification.costly_inverses import COSTLY_INVERSES
from bwsk_jax.classification.erasure import ERASES
from bwsk_jax.engine.program import jaxprs
from bwsk_jax.engine.rules import inverses
from tests.support.kinds import kind_of

bind = lambda primitive, **params: lambda *args: primitive.bind(*args, **params)

ONE, TWO, BOTH = jnp.float32(1), jnp.float32(2), jnp.array([1.0, 2.0])
X, Y = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([[1.0, 2.0], [5.0, 4.0]])
INTEGERS = jnp.array([6, 7]), jnp.array([6, 4])
TRUE, FALSE = jnp.array(True), jnp.array(False)
ZERO = jnp.zeros((2, 2))
LAST, FIRST = jnp.array([0.0, 1.0, 9.0]), jnp.array([0.0, 5.0, 9.0])

WITNESSES = [
    (p.add_p, lambda x: x + jnp.inf, ONE, TWO),
    (p.add_p, lambda x: x + x, jnp.int8(1), jnp.int8(-127)),
    (p.add_p, lambda x: x + jnp.full(2, -jnp.inf), BOTH, -BOTH),
    (p.sub_p, lambda x: x - x, ONE, TWO),
    (p.sub_p, lambda x: x - jnp.full(2, jnp.inf), BOTH, -BOTH),
    (p.mul_p, lambda x: x * x, ONE, -ONE),
    (p.mul_p, lambda x: x * 0.0, ONE, TWO),
    *((p.mul_p, lambda x, c=c: x * jnp.full(2, c), BOTH, 2 * BOTH) for c in (jnp.inf, -jnp.inf)),
    (p.mul_p, lambda x: x * 2, jnp.int8(1), jnp.int8(-127)),
    (p.div_p, lambda x: x / x, ONE, TWO),
    (p.div_p, lambda x: 0.0 / x, ONE, TWO),
    (p.div_p, lambda x: lax.div(x, 2), jnp.int32(2), jnp.int32(3)),
    (p.integer_pow_p, lambda x: lax.integer_pow(x, 4), ONE, -ONE),
    (p.xor_p, lambda x: x ^ x, jnp.int32(2), jnp.int32(3)),
    (p.convert_element_type_p, lambda x: x.astype(jnp.int8), ONE, jnp.float32(1.5)),
    (p.convert_element_type_p, lambda x: x.astype(jnp.float16), jnp.int32(4096), jnp.int32(4097)),
    (p.pad_p, lambda x: lax.pad(x, 0.0, ((0, -1, 0),)), BOTH, jnp.array([1.0, 3.0])),
    (p.pad_p, lambda x: lax.pad(BOTH, x, ((0, -1, 0),)), ONE, TWO),
    (p.broadcast_in_dim_p, lambda x: lax.broadcast_in_dim(x, (0, 2), (1,)), BOTH, -BOTH),
    (lax.tile_p, lambda x: lax.tile(x, (0,)), BOTH, -BOTH),
    (p.dot_general_p, lambda x: x @ jnp.array([[1.0], [-1.0]]), BOTH[None], BOTH[None] + 1),
    (p.dot_general_p, lambda x: x @ x, X, -X),
    (p.dot_general_p, lambda x: x @ jnp.int8([[2]]), jnp.int8([[1]]), jnp.int8([[-127]])),
    (p.triangular_solve_p, lambda a: lax.linalg.triangular_solve(a, ZERO, left_side=True), X, Y),
    (lax.linear_solve_p, lambda a: jnp.linalg.solve(a, ZERO[0]), X, Y),
    (
        p.tridiagonal_solve_p,
        lambda d: lax.linalg.tridiagonal_solve(0 * BOTH, d, 0 * BOTH, ZERO),
        BOTH,
        2 * BOTH,
    ),
    (p.svd_p, lambda x: jnp.linalg.svd(x, compute_uv=False), jnp.diag(BOTH), jnp.diag(BOTH[::-1])),
    (p.eig_p, jnp.linalg.eigvals, jnp.diag(BOTH), jnp.diag(BOTH) + jnp.eye(2, k=1)),
    (
        p.schur_p,
        lambda x: lax.linalg.schur(x, compute_schur_vectors=False),
        jnp.array([[1.0, 0.0], [1.0, 2.0]]),
        lax.linalg.schur(jnp.array([[1.0, 0.0], [1.0, 2.0]]))[0],
    ),
    (p.scatter_add_p, lambda u: ZERO[0].at[np.array([0, 0])].add(u), BOTH, BOTH[::-1]),
    (lax.scatter_sub_p, lambda u: ZERO[0].at[np.array([0, 0])].subtract(u), BOTH, BOTH[::-1]),
    (p.mul_p, lambda x: x * 6, jnp.int8(1), jnp.int8(-127)),
    (p.convert_element_type_p, lambda x: x.astype(jnp.int8), jnp.int32(1), jnp.int32(257)),
    (p.fft_p, jnp.fft.irfft, jnp.array([1, 2, 3], jnp.complex64), jnp.array([1 + 1j, 2, 3], jnp.complex64)),
    (p.scatter_mul_p, lambda u: ZERO[0].at[np.array([0, 1])].multiply(u), BOTH, -BOTH),
    (p.scatter_mul_p, lambda x: x.at[0].multiply(2), jnp.int8([1]), jnp.int8([-127])),
    (p.cumprod_p, lambda x: lax.cumprod(x), jnp.int8([2, 64]), jnp.int8([2, -64])),
    (p.atan2_p, lambda x: lax.atan2(x, x), ONE, TWO),
    (p.pow_p, lambda x: lax.pow(x, 2), ONE, -ONE),
    (p.pow_p, lambda x: lax.pow(1.0, x), ONE, TWO),
    (p.floor_p, lax.floor, jnp.float32(1.2), jnp.float32(1.3)),
    (p.ceil_p, lax.ceil, jnp.float32(1.2), jnp.float32(1.3)),
    (p.round_p, lax.round, jnp.float32(1.2), jnp.float32(1.3)),
    (p.sign_p, lax.sign, ONE, TWO),
    (p.is_finite_p, lax.is_finite, ONE, TWO),
    (p.max_p, lambda x: lax.max(x, 3.0), ONE, TWO),
    (p.max_p, lambda x: lax.max(x, jnp.inf), ONE, TWO),
    (p.min_p, lambda x: lax.min(x, 0.0), ONE, TWO),
    (p.clamp_p, lambda x: lax.clamp(-1.0, x, 0.0), ONE, TWO),
    (p.rem_p, lambda x: lax.rem(x, 3.0), ONE, jnp.float32(4)),
    (p.nextafter_p, lambda x: lax.nextafter(x, 1.0), ONE, jnp.nextafter(ONE, jnp.float32(0))),
    (p.select_n_p, lambda x: lax.select_n(FALSE, jnp.float32(3), x), ONE, TWO),
    (p.real_p, lax.real, jnp.complex64(1 + 1j), jnp.complex64(1)),
    (p.imag_p, lax.imag, jnp.complex64(1j), jnp.complex64(1 + 1j)),
    *((q, lambda x, q=q: q.bind(x, 0.0), ONE, TWO) for q in (p.eq_p, p.ne_p, p.lt_p, p.le_p, p.gt_p, p.ge_p)),
    *((q, lambda x, q=q: q.bind(x, 0.0), ONE, TWO) for q in (p.eq_to_p, p.le_to_p, p.lt_to_p)),
    (p.and_p, lambda x: x & FALSE, TRUE, FALSE),
    (p.or_p, lambda x: x | TRUE, TRUE, FALSE),
    (p.population_count_p, lax.population_count, jnp.int32(1), jnp.int32(2)),
    (p.clz_p, lax.clz, jnp.int32(2), jnp.int32(3)),
    (p.shift_left_p, lambda x: lax.shift_left(x, jnp.int8(1)), jnp.int8(1), jnp.int8(-127)),
    (p.shift_right_logical_p, lambda x: lax.shift_right_logical(x, 1), jnp.int32(2), jnp.int32(3)),
    (p.shift_right_arithmetic_p, lambda x: lax.shift_right_arithmetic(x, 1), jnp.int32(2), jnp.int32(3)),
    (lax.mulhi_p, lambda x: lax.mulhi_p.bind(x, x), jnp.uint32(2), jnp.uint32(3)),
    (p.reduce_sum_p, jnp.sum, jnp.array([1.0, 2.0]), jnp.array([2.0, 1.0])),
    (p.reduce_max_p, jnp.max, jnp.array([1.0, 9.0]), jnp.array([2.0, 9.0])),
    (p.reduce_min_p, jnp.min, jnp.array([1.0, 0.0]), jnp.array([2.0, 0.0])),
    (p.reduce_prod_p, jnp.prod, jnp.array([1.0, 2.0]), jnp.array([2.0, 1.0])),
    (p.reduce_and_p, jnp.all, jnp.array([True, False]), jnp.array([False, False])),
    (p.reduce_or_p, jnp.any, jnp.array([True, False]), jnp.array([True, True])),
    (p.reduce_xor_p, lambda x: lax.reduce_xor(x, (0,)), jnp.array([1, 1]), jnp.array([2, 2])),
    (
        p.reduce_p,
        lambda x: lax.reduce(x, 0.0, lambda a, b: a * b + a, (0,)),
        jnp.zeros(2),
        jnp.array([0.0, 9]),
    ),
    (
        p.reduce_window_sum_p,
        lambda x: lax.reduce_window(x, 0.0, lax.add, (2,), (2,), "VALID"),
        BOTH,
        BOTH[::-1],
    ),
    (
        p.reduce_window_max_p,
        lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (2,), (2,), "VALID"),
        BOTH,
        jnp.array([0.0, 2.0]),
    ),
    (
        p.reduce_window_min_p,
        lambda x: lax.reduce_window(x, jnp.inf, lax.min, (2,), (2,), "VALID"),
        BOTH,
        jnp.array([1.0, 9.0]),
    ),
    (p.argmax_p, jnp.argmax, BOTH, 2 * BOTH),
    (p.argmin_p, jnp.argmin, BOTH, 2 * BOTH),
    (p.cummax_p, lax.cummax, jnp.array([9.0, 1.0]), jnp.array([9.0, 2.0])),
    (p.cummin_p, lax.cummin, jnp.array([0.0, 1.0]), jnp.array([0.0, 2.0])),
    (p.slice_p, lambda x: x[:1], BOTH, jnp.array([1.0, 9.0])),
    (p.dynamic_slice_p, lambda x: lax.dynamic_slice(x, (jnp.int32(1),), (1,)), BOTH, jnp.array([9.0, 2.0])),
    (p.gather_p, lambda x: x[jnp.array([1, 1])], BOTH, jnp.array([9.0, 2.0])),
    (p.sort_p, jnp.sort, BOTH, BOTH[::-1]),
    (p.sort_p, lambda x: lax.sort((x, 0 * x), num_keys=1), BOTH, BOTH[::-1]),
    (p.sort_p, jnp.argsort, BOTH, 2 * BOTH),
    (p.top_k_p, lambda x: lax.top_k(x, 1), BOTH, jnp.array([0.0, 2.0])),
    (p.approx_top_k_p, lambda x: lax.approx_max_k(x, 1), BOTH, jnp.array([0.0, 2.0])),
    (p.scatter_p, lambda x: x.at[np.array([0])].set(5.0), BOTH, jnp.array([9.0, 2.0])),
    (p.scatter_min_p, lambda x: x.at[np.array([0])].min(0.0), BOTH, jnp.array([9.0, 2.0])),
    (p.scatter_max_p, lambda x: x.at[np.array([0])].max(10.0), BOTH, jnp.array([9.0, 2.0])),
    *(
        (
            q,
            lambda x: lax.ragged_dot(x[:, None], jnp.ones((1, 1, 1)), jnp.array([1])),
            BOTH,
            jnp.array([1.0, 9.0]),
        )
        for q in jaxprs.present("ragged_dot_general_p")
    ),
    (
        p.dynamic_update_slice_p,
        lambda x: lax.dynamic_update_slice(x, BOTH[:1], (1,)),
        BOTH,
        jnp.array([1.0, 9.0]),
    ),
]
ELEMENTWISE = [
    *((q, q.bind) for q in (p.abs_p, p.square_p, p.bessel_i0e_p, p.bessel_i1e_p, p.lgamma_p)),
    *((q, bind(q, accuracy=None)) for q in (p.sin_p, p.cos_p)),
    (p.tan_p, lambda x: bind(p.tan_p, accuracy=None)(x.astype(jnp.float16))),
    (p.cosh_p, p.cosh_p.bind),
    (p.digamma_p, p.digamma_p.bind),
    (p.polygamma_p, lambda x: lax.polygamma(1.0, x)),
    (p.igamma_grad_a_p, lambda x: lax.igamma_grad_a(1.0, abs(x))),
    (p.igamma_p, lambda x: lax.igamma(1.0, abs(x))),
    (p.igammac_p, lambda x: lax.igammac(1.0, abs(x))),
    (p.zeta_p, lambda x: lax.zeta(abs(x) + 2, 1.0)),
    (p.regularized_incomplete_beta_p, lambda x: lax.betainc(20.0, 20.0, lax.logistic(x))),
    *((q, q.bind) for q in jaxprs.present("one_minus_square_p")),
    *((q, lambda x: lax.polynomial(x, [1.0, 0.0, 1.0])) for q in jaxprs.present("polynomial_p")),
]
SEEN_ELSEWHERE = {
    *(p.random_bits_p, p.random_gamma_p, p.rng_uniform_p, p.threefry2x32_p, p.rng_bit_generator_p),
    *(p.psum_p, p.pmax_p, p.pmin_p, p.ppermute_p, *jaxprs.present("psum_invariant_p")),
    *(p.conv_general_dilated_p, p.reduce_window_p, p.select_and_gather_add_p, p.select_and_scatter_p),
    p.select_and_scatter_add_p,
}


@pytest.mark.parametrize(
    ("primitive", "call", "first", "second"),
    [pytest.param(*w, id=f"{w[0]}-{k}") for k, w in enumerate(WITNESSES)],
)
def test_what_erases_has_two_inputs_with_one_output(primitive, call, first, second):
    assert kind_of(call, primitive, first) == "K"
    assert (first != second).any()
    jax.tree.map(np.testing.assert_array_equal, call(first), call(second))


SLOW = {p.igamma_grad_a_p, p.regularized_incomplete_beta_p}


@pytest.mark.parametrize(
    ("primitive", "call"),
    [pytest.param(*e, id=str(e[0]), marks=pytest.mark.slow if e[0] in SLOW else ()) for e in ELEMENTWISE],
)
def test_a_function_that_is_not_one_to_one_repeats_itself_far_away(primitive, call):
    """Two inputs that differ by more than rounding have, bit for bit, one output."""
    grid = np.concatenate([np.linspace(-30, 30, 600_001), [0.0, 1.0, 2.0]]).astype(np.float32)
    assert kind_of(call, primitive, jnp.float32(1)) == "K"
    values = np.asarray(call(jnp.asarray(grid)))
    finite = np.isfinite(values)
    _, number = np.unique(values[finite], return_inverse=True)
    lowest, highest = np.full(len(number), np.inf), np.full(len(number), -np.inf)
    np.minimum.at(lowest, number, grid[finite])
    np.maximum.at(highest, number, grid[finite])
    assert (highest - lowest).max() > 0.1


def test_what_erases_for_all_devices_or_windows_is_seen():
    """Witnesses that do not fit into a table: two inputs, one output."""
    over = lambda reduce: jax.vmap(lambda x: reduce(x, "i"), axis_name="i")
    for reduce, x in ((lax.psum, [2.0, 1.0]), (lax.pmax, [2.0, 2.0]), (lax.pmin, [1.0, 1.0])):
        np.testing.assert_array_equal(*(over(reduce)(jnp.array(v)) for v in (x, x[::-1])))
    np.testing.assert_array_equal(*(over(lax.psum)(jnp.array(v)) for v in ([1.0, 2.0], [2.0, 1.0])))
    window = lambda x: lax.conv_general_dilated(x[None, None], jnp.ones((1, 1, 2)), (2,), "VALID")
    np.testing.assert_array_equal(window(jnp.array([1.0, 2.0])), window(jnp.array([2.0, 1.0])))
    assert kind_of(window, p.conv_general_dilated_p, BOTH) == "K"
    dropped = lambda x: lax.conv_general_dilated(x[None, None], jnp.ones((1, 1, 1)), (2,), "VALID")
    np.testing.assert_array_equal(dropped(BOTH), dropped(jnp.array([1.0, 9.0])))
    assert kind_of(dropped, p.conv_general_dilated_p, BOTH) == "K"


@pytest.mark.parametrize("implementation", ["threefry2x32", "rbg"])
def test_keys_share_bits(implementation):
    draw_bits = lambda seed: jax.random.bits(jax.random.key(seed, impl=implementation), (), jnp.uint8)
    assert len(np.unique([draw_bits(seed) for seed in range(60)])) < 60
    assert kind_of(jax.random.bits, p.random_bits_p, jax.random.key(0)) == "K"


def test_what_has_no_elements_loses_none():
    (line,) = bwsk_jax.classify(lambda x: jnp.sort(x), jnp.ones((0,))).lines
    assert (line.kind, line.why) == ("S", "it has no operand to lose")
    (line,) = bwsk_jax.classify(jnp.dot, jnp.ones((3, 0)), jnp.ones((0, 4))).lines
    assert (line.kind, line.why) == ("S", "it has no operand to lose")
    assert kind_of(lambda x: x @ jnp.ones((8, 3)), p.dot_general_p, jnp.ones((0, 8))) == "K"


def test_every_primitive_said_to_erase_has_a_witness():
    seen = {w[0] for w in WITNESSES} | {e[0] for e in ELEMENTWISE} | SEEN_ELSEWHERE
    assert set(ERASES) == seen


# --- coverage ----------------------------------------------------------------------------------------------

NOT_CONSIDERED = {
    "structure": "call closed_call cond custom_jvp_call custom_lin custom_vjp_call "
    "eval_jaxpr jit remat2 scan while stage dce_sink",
    "state and order": "after_all create_token empty2 get swap iota axis_index",
    "factorisations": "cholesky_update hessenberg householder_product lu_pivots_to_permutation ormqr "
    "symmetric_product tridiagonal",
    "between devices": "all_gather all_to_all ragged_all_to_all",
    "keys": "random_split",
}


def test_every_elementwise_shape_and_contraction_primitive_has_an_entry(record_property):
    """What JAX exports is considered, but for what is named here by category."""
    modules = (p, lax, lax.linalg)
    exported = {getattr(m, n) for m in modules for n in dir(m) if isinstance(getattr(m, n), Primitive)}
    considered = exported & {*inverses.INVERSES, *COSTLY_INVERSES, *ERASES}
    record_property("coverage", f"{len(considered)} of {len(exported)} exported primitives")
    rest = {str(primitive) for primitive in exported - considered}
    assert rest <= {name for names in NOT_CONSIDERED.values() for name in names.split()}
    assert len(considered) >= 154
