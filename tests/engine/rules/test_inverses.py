"""The table: every inverse gives back its operand to what its grade promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import primitives as p
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bwsk_jax.engine.program import jaxprs
from bwsk_jax.engine.rules import inverses, registry
from bwsk_jax.engine.rules.exactness import Grade
from tests.support.rule_cases import ALL, FLOATS, TWO, Case, check_round_trip, round_trips

bind = lambda primitive, **params: lambda *args: primitive.bind(*args, **params)


def both(grade):
    return {0: grade, 1: grade}


def elementary(primitive, call, grade, low=-2.0, high=2.0):
    return Case(primitive, call, {0: grade}, low, high)


CASES = [
    Case(
        p.add_p,
        lax.add,
        both(Grade.ROUNDED),
        shapes=TWO,
        types=("float32", "float64", "bfloat16", "complex64"),
    ),
    Case(p.add_p, lax.add, both(Grade.EXACT), shapes=TWO, types=("int8", "uint32", "int32")),
    Case(p.add_jaxvals_p, bind(p.add_jaxvals_p), both(Grade.ROUNDED), shapes=TWO),
    Case(
        p.sub_p,
        lax.sub,
        both(Grade.ROUNDED),
        shapes=TWO,
        types=("float32", "float64", "bfloat16", "complex64"),
    ),
    Case(p.sub_p, lax.sub, both(Grade.EXACT), shapes=TWO, types=("int8", "uint32", "int32")),
    Case(p.mul_p, lax.mul, both(Grade.GUARDED), low=0.5, shapes=TWO),
    Case(p.mul_p, lambda x: x * 0.3, {0: Grade.RELATIVE}),
    Case(p.mul_p, lax.mul, {}, shapes=TWO, types=("int32",)),
    Case(p.div_p, lax.div, both(Grade.GUARDED), low=0.5, shapes=TWO),
    Case(p.div_p, lambda x: x / 7.0, {0: Grade.RELATIVE}),
    Case(p.neg_p, lax.neg, {0: Grade.EXACT}, types=(*FLOATS, "int8", "uint32", "complex64")),
    Case(p.integer_pow_p, lambda x: lax.integer_pow(x, 3), {0: Grade.GUARDED}, low=0.5),
    Case(p.integer_pow_p, lambda x: lax.integer_pow(x, -3), {0: Grade.GUARDED}, low=-2.0, high=-0.5),
    Case(p.integer_pow_p, lambda x: lax.integer_pow(x, 2), {}),
    elementary(p.exp_p, lax.exp, Grade.GUARDED),
    elementary(p.exp2_p, lax.exp2, Grade.GUARDED),
    elementary(p.log_p, lax.log, Grade.GUARDED, 0.1, 5.0),
    *(elementary(q, jnp.log2, Grade.GUARDED, 0.1, 5.0) for q in jaxprs.present("log2_p")),
    elementary(p.expm1_p, lax.expm1, Grade.GUARDED),
    elementary(p.log1p_p, lax.log1p, Grade.GUARDED, -0.5, 5.0),
    elementary(p.tanh_p, lax.tanh, Grade.GUARDED),
    elementary(p.atanh_p, lax.atanh, Grade.ROUNDED, -0.9, 0.9),
    elementary(p.sinh_p, lax.sinh, Grade.ROUNDED),
    elementary(p.asinh_p, lax.asinh, Grade.GUARDED),
    elementary(p.asin_p, lax.asin, Grade.ROUNDED, -1.0, 1.0),
    elementary(p.acos_p, lax.acos, Grade.ROUNDED, -1.0, 1.0),
    elementary(p.atan_p, lax.atan, Grade.GUARDED),
    elementary(p.acosh_p, lax.acosh, Grade.GUARDED, 1.5, 5.0),
    elementary(p.logistic_p, lax.logistic, Grade.GUARDED),
    elementary(p.erf_p, lax.erf, Grade.GUARDED, -1.5, 1.5),
    elementary(p.erf_inv_p, lax.erf_inv, Grade.ROUNDED, -0.9, 0.9),
    elementary(p.sqrt_p, lax.sqrt, Grade.RELATIVE, 0.0, 5.0),
    elementary(p.rsqrt_p, lax.rsqrt, Grade.GUARDED, 0.1, 5.0),
    elementary(p.cbrt_p, lax.cbrt, Grade.RELATIVE),
    Case(
        p.convert_element_type_p,
        lambda x: x.astype(jnp.float32),
        {0: Grade.EXACT},
        types=("bfloat16", "int8", "bool"),
    ),
    Case(
        p.convert_element_type_p,
        lambda x: x.astype(jnp.bfloat16),
        {0: Grade.NARROWED},
        types=("float32", "float16"),
    ),
    Case(
        p.convert_element_type_p,
        lambda x: x.astype(jnp.float16),
        {0: Grade.NARROWED},
        types=("float32", "bfloat16"),
    ),
    Case(p.convert_element_type_p, lambda x: x.astype(jnp.float32), {}, types=("int32", "uint32")),
    Case(p.convert_element_type_p, lambda x: x.astype(jnp.int32), {}, types=("float32",)),
    Case(
        p.convert_element_type_p,
        lambda x: x.astype(jnp.int32),
        {0: Grade.EXACT},
        types=("int8", "uint16", "bool"),
    ),
    Case(
        p.bitcast_convert_type_p,
        lambda x: lax.bitcast_convert_type(x, jnp.int32),
        {0: Grade.EXACT},
        types=("float32", "uint32"),
    ),
    Case(
        p.bitcast_convert_type_p,
        lambda x: lax.bitcast_convert_type(x, jnp.int16),
        {0: Grade.EXACT},
        types=("float32", "bfloat16", "uint32"),
    ),
    Case(p.not_p, lax.bitwise_not, {0: Grade.EXACT}, types=("int8", "uint32", "bool")),
    Case(p.xor_p, lax.bitwise_xor, both(Grade.EXACT), shapes=TWO, types=("int8", "uint32", "bool")),
    Case(p.complex_p, lax.complex, both(Grade.EXACT), shapes=TWO),
    Case(p.complex_p, lambda x: lax.complex(x, x), both(Grade.EXACT)),
    Case(
        p.convert_element_type_p,
        lambda x: x.astype(jnp.complex64),
        {0: Grade.EXACT},
        types=("float32", "bfloat16", "int8", "bool"),
    ),
    Case(p.conj_p, lax.conj, {0: Grade.EXACT}, types=("complex64", "complex128")),
    Case(p.reshape_p, lambda x: lax.reshape(x, (2, 6)), {0: Grade.EXACT}, types=ALL),
    Case(
        p.reshape_p,
        lambda x: lax.reshape(x, (8, 3), dimensions=(2, 0, 1)),
        {0: Grade.EXACT},
        shapes=((3, 4, 2),),
        types=ALL,
    ),
    Case(p.squeeze_p, lambda x: lax.squeeze(x, (1,)), {0: Grade.EXACT}, shapes=((3, 1, 2),), types=ALL),
    Case(
        p.broadcast_in_dim_p,
        lambda x: lax.broadcast_in_dim(x, (2, 3, 5, 4), (1, 3)),
        {0: Grade.EXACT},
        types=ALL,
    ),
    Case(
        p.broadcast_in_dim_p,
        lambda x: lax.broadcast_in_dim(x, (3, 5), (0, 1)),
        {0: Grade.EXACT},
        shapes=((3, 1),),
        types=ALL,
    ),
    Case(p.broadcast_in_dim_p, lambda x: lax.broadcast_in_dim(x, (0, 4), (1,)), {}, shapes=((4,),)),
    Case(p.transpose_p, lambda x: x.transpose(2, 0, 1), {0: Grade.EXACT}, shapes=((2, 3, 4),), types=ALL),
    Case(p.rev_p, lambda x: lax.rev(x, (1,)), {0: Grade.EXACT}, types=ALL),
    Case(
        p.concatenate_p,
        lambda *xs: lax.concatenate(xs, 1),
        dict.fromkeys(range(3), Grade.EXACT),
        shapes=((3, 4), (3, 0), (3, 2)),
        types=ALL,
    ),
    Case(
        lax.stack_p,
        lambda *xs: jnp.stack(xs, 1),
        dict.fromkeys(range(3), Grade.EXACT),
        shapes=((3, 4),) * 3,
        types=ALL,
    ),
    Case(lax.unstack_p, lambda x: jnp.unstack(x, axis=1), {0: Grade.EXACT}, types=ALL),
    Case(lax.tile_p, lambda x: lax.tile(x, (2, 3)), {0: Grade.EXACT}, types=ALL),
    Case(lax.split_p, lambda x: lax.split(x, (1, 3), 1), {0: Grade.EXACT}, types=ALL),
    Case(p.pad_p, lambda x: lax.pad(x, x[0, 0], ((1, 2, 0), (0, 1, 3))), {0: Grade.EXACT}, types=ALL),
    Case(p.pad_p, lambda x: lax.pad(x, x[0, 0], ((-1, 2, 0), (0, 1, 3))), {}),
    Case(
        p.dynamic_update_slice_p,
        lambda x, u: lax.dynamic_update_slice(x, u, (jnp.argmax(x[:, 0]), 1)),
        {1: Grade.EXACT},
        shapes=((3, 4), (2, 2)),
        types=FLOATS,
    ),
    Case(p.copy_p, jnp.copy, {0: Grade.EXACT}, types=ALL),
    Case(
        p.sharding_constraint_p,
        lambda x: lax.with_sharding_constraint(
            x, NamedSharding(Mesh(jax.devices()[:1], "i"), PartitionSpec())
        ),
        {0: Grade.EXACT},
    ),
    Case(p.stop_gradient_p, bind(p.stop_gradient_p), {0: Grade.EXACT}),
    Case(p.name_p, lambda x: checkpoint_name(x, "x"), {0: Grade.EXACT}, types=ALL),
    Case(
        lax.optimization_barrier_p,
        lambda *xs: lax.optimization_barrier(xs),
        both(Grade.EXACT),
        shapes=TWO,
        types=ALL,
    ),
]


@pytest.mark.parametrize(("case", "dtype"), round_trips(CASES))
def test_an_inverse_gives_back_its_operand_to_its_grade(case, dtype):
    check_round_trip(case, dtype, lambda equation, program: registry.inverses_of(equation))


def test_every_entry_of_the_table_has_a_case():
    assert set(inverses.INVERSES) == {c.primitive for c in CASES}


@pytest.mark.parametrize("call", [lambda x: x + x, lambda x: x * x, lambda x: x - x, lambda x: x / x])
def test_an_operand_that_occurs_twice_cannot_be_solved_for(call):
    (equation,) = jaxprs.flatten(jax.make_jaxpr(call)(jnp.ones(3))).equations
    assert registry.inverses_of(equation) == []


@pytest.mark.parametrize(
    "call",
    [
        *(lambda x: x * 0.0, lambda x: x * jnp.inf, lambda x: x * 1e-40),
        *(lambda x: x / 0.0, lambda x: x / jnp.nan, lambda x: x / 1e-40, lambda x: 0.0 / x),
        *(lambda x: x + jnp.inf, lambda x: x - jnp.nan, lambda x: jnp.inf - x),
    ],
)
def test_a_constant_that_erases_has_no_inverse(call):
    (equation,) = jaxprs.flatten(jax.make_jaxpr(call)(jnp.ones(3))).equations
    assert registry.inverses_of(equation) == []


@pytest.mark.parametrize(
    ("call", "factor"), [(lambda x: x * 0.25, 4.0), (lambda x: x / 0.5, 0.5), (lambda x: x * -8.0, 0.125)]
)
def test_a_constant_factor_declares_its_amplification(call, factor):
    (equation,) = jaxprs.flatten(jax.make_jaxpr(call)(jnp.ones(3))).equations
    (inverse,) = registry.inverses_of(equation)
    assert inverse.amplification == pytest.approx(factor)


@pytest.mark.parametrize(
    "call",
    [
        jnp.sin,
        jnp.abs,
        lambda x: x.sum(0),
        lambda x: x @ x.T,
        jnp.round,
        lambda x: x[1:],
        lambda x: jnp.sort(x),
    ],
    ids=["sin", "abs", "sum", "dot", "round", "slice", "sort"],
)
def test_what_erases_has_no_inverse(call):
    for equation in jaxprs.flatten(jax.make_jaxpr(call)(jnp.ones((3, 3)))).equations:
        assert equation.primitive in inverses.INVERSES or registry.inverses_of(equation) == []


# --- casts ---------------------------------------------------------------------------------------------

EMBEDS = [
    ("bfloat16", "float32"),
    ("float16", "float32"),
    ("float32", "float64"),
    ("int8", "float32"),
    ("int8", "bfloat16"),
    ("uint8", "bfloat16"),
    ("int16", "float32"),
    ("int32", "float64"),
    ("uint8", "int16"),
    ("bool", "int8"),
    ("bool", "bfloat16"),
    ("complex64", "complex128"),
    ("float32", "complex64"),
    ("int32", "complex128"),
    ("int4", "float8_e4m3fn"),
    ("float8_e4m3fn", "bfloat16"),
]
LOSES = [
    ("float32", "bfloat16"),
    ("bfloat16", "float16"),
    ("float16", "bfloat16"),
    ("int32", "float32"),
    ("int16", "bfloat16"),
    ("int64", "float64"),
    ("int8", "uint8"),
    ("uint8", "int8"),
    ("float32", "int32"),
    ("int8", "bool"),
    ("complex128", "complex64"),
    ("float64", "complex64"),
    ("complex64", "float32"),
    ("int2", "float8_e8m0fnu"),
    ("float8_e4m3", "float8_e4m3fn"),
]


@pytest.mark.parametrize(
    ("source", "target"), EMBEDS + [(t, t) for t in ("float32", "int8", "bool", "complex64")]
)
def test_a_type_embeds_where_every_value_survives(source, target):
    assert inverses._embeds(jnp.dtype(source), jnp.dtype(target))


@pytest.mark.parametrize(("source", "target"), LOSES)
def test_a_type_does_not_embed_where_a_value_is_lost(source, target):
    assert not inverses._embeds(jnp.dtype(source), jnp.dtype(target))


@pytest.mark.parametrize("source", ["int8", "uint8", "int16", "uint16", "float16", "bfloat16", "bool"])
@pytest.mark.parametrize("target", ["int8", "uint8", "int16", "float16", "bfloat16", "float32", "bool"])
def test_embedding_agrees_with_a_cast_of_every_value(source, target):
    size = jnp.dtype(source).itemsize
    every = np.arange(2 ** (8 * size), dtype=f"uint{8 * size}").view(jnp.dtype(source))
    if source == "bool":
        every = np.array([False, True])
    with np.errstate(all="ignore"):
        value = every.astype(np.float64)
        kept = every.astype(jnp.dtype(target)).astype(np.float64) == value
    survives = bool(kept[np.isfinite(value)].all())
    assert inverses._embeds(jnp.dtype(source), jnp.dtype(target)) == survives
