"""Random small programs: straight-line code over 4x4 matrices, drawn from the primitives of the rule table.

Every line reads earlier results and gives a matrix, kept from growing so that gradients stay finite.
"""

import functools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name

N = 4
MIX = np.linspace(-1.0, 1.0, N * N).reshape(N, N) + 0.5 * np.eye(N)


def constant(x):
    """The mixing matrix in the type of `x`."""
    return jnp.asarray(MIX, x.dtype)


def spread(x):
    """A row or column, once for each of the others."""
    return jnp.broadcast_to(x, (N, N))


def through(dtype):
    return lambda x: x.astype(dtype).astype(x.dtype)


def in_bits(x):
    bits = lax.bitcast_convert_type(x, jnp.dtype(f"int{8 * x.dtype.itemsize}"))
    kept = lax.bitcast_convert_type(~(~bits ^ 0) ^ 0, x.dtype)
    return x + 0.1 * lax.stop_gradient(kept)


def looped(x):
    return lax.fori_loop(0, 2, lambda i, h: jnp.tanh(h @ constant(x)), x)


def in_pieces(x):
    a, b = lax.split(x, (1, N - 1), 1)
    return lax.concatenate([b, a], 1)


@jax.custom_vjp
def rectified(x):
    return jnp.maximum(x, 0)


rectified.defvjp(lambda x: (rectified(x), x), lambda x, ct: (jnp.where(x > 0, ct, 0),))

UNARY = {
    # sums, products, powers
    "negative": jnp.negative,
    "affine": lambda x: x * 0.5 + 1.0,
    "over a constant": lambda x: x / 3.0,
    "constant over": lambda x: 1.0 / (2.0 + x * x),
    "cube": lambda x: x**3,
    "square": lambda x: x * x,
    "dead scale": lambda x: x * jnp.asarray([1.0, 0.0, 1e-30, 2.0], x.dtype)[None] + 1,
    # elementary functions
    "exp": jnp.exp,
    "exp2": lax.exp2,
    "expm1": jnp.expm1,
    "log": lambda x: jnp.log(jnp.abs(x) + 0.1),
    "log1p": lambda x: jnp.log1p(x * x),
    "tanh": jnp.tanh,
    "atanh": lambda x: jnp.arctanh(0.9 * jnp.sin(x)),
    "sinh": jnp.sinh,
    "asinh": jnp.arcsinh,
    "asin": lambda x: jnp.arcsin(0.9 * jnp.tanh(x)),
    "acos": lambda x: jnp.arccos(0.9 * jnp.tanh(x)),
    "atan": jnp.arctan,
    "acosh": lambda x: jnp.arccosh(1.5 + x * x),
    "sin": jnp.sin,
    "cos": jnp.cos,
    "logistic": jax.nn.sigmoid,
    "erf": jax.scipy.special.erf,
    "erf_inv": lambda x: jax.scipy.special.erfinv(0.9 * jnp.tanh(x)),
    "sqrt": lambda x: jnp.sqrt(x * x + 0.5),
    "rsqrt": lambda x: lax.rsqrt(x * x + 0.5),
    "cbrt": lambda x: jnp.cbrt(x * x + 0.5),
    "softplus": jax.nn.softplus,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    # comparisons
    "relu": jax.nn.relu,
    "custom relu": rectified,
    "abs": jnp.abs,
    "leaky": lambda x: jnp.where(x > 0, x, 0.1 * x),
    "clip": lambda x: jnp.clip(x, -0.5, 0.5) + 0.1 * x,
    "sign": lambda x: jnp.sign(x) * jnp.cos(x),
    # reductions and what spreads them
    "centre": lambda x: x - x.mean(-1, keepdims=True),
    "rms norm": lambda x: x * lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-3),
    "softmax": lambda x: jax.nn.softmax(x, -1),
    "logsumexp": lambda x: x - spread(jax.nn.logsumexp(x, 0, keepdims=True)),
    "maximum": lambda x: x + spread(x.max(1, keepdims=True)),
    "minimum": lambda x: spread(x.min(0)[None]) - x,
    "product": lambda x: x + 0.1 * spread(jnp.tanh(x).prod(0, keepdims=True)),
    "cumsum": lambda x: jnp.cumsum(x, 1),
    "cummax": lambda x: lax.cummax(x, 0),
    "cumprod": lambda x: jnp.cumprod(jnp.tanh(x), 0),
    "sort": lambda x: jnp.sort(x, -1),
    "argsort": lambda x: jnp.take_along_axis(x, jnp.argsort(x, 0)[::-1], 0),
    "top 2": lambda x: x + spread(lax.top_k(x, 2)[0].sum(-1, keepdims=True)),
    "max pool": lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 2), (1, 1), "SAME"),
    # contractions
    "mix": lambda x: x @ constant(x),
    "mix rows": lambda x: jnp.einsum("ij,ik->jk", x, constant(x)),
    "convolve": lambda x: lax.conv(x[None, None], constant(x)[None, None, :2, :2], (1, 1), "SAME")[0, 0],
    "loop": looped,
    "conditional": lambda x: lax.cond(x[0, 0] > 0, jnp.sin, jnp.cos, x),
    # shapes and copies
    "transpose": jnp.transpose,
    "reverse": lambda x: x[::-1],
    "reshape": lambda x: x.reshape(-1)[::-1].reshape(N, N),
    "squeeze": lambda x: jnp.squeeze(x[:, None], 1) * 2.0,
    "roll": lambda x: jnp.concatenate([x[:, 1:], x[:, :1]], 1),
    "split": in_pieces,
    "pad": lambda x: jnp.pad(x, ((0, 1), (1, 0)))[1:, :-1] + x,
    "dilate": lambda x: lax.pad(x, jnp.ones((), x.dtype), ((0, 0, 1), (0, 0, 0)))[:N] * x,
    "slice": lambda x: spread(x[:1]) + x,
    "gather": lambda x: x[jnp.asarray([2, 0, 0, 3])],
    "scatter": lambda x: x.at[jnp.asarray([1, 3])].add(x[:2]),
    "update": lambda x: lax.dynamic_update_slice(x, jnp.sin(x[:2, :2]), (1, 1)),
    "bits": in_bits,
    "stop": lambda x: lax.stop_gradient(x) + jnp.sin(x),
    "barrier": lambda x: lax.optimization_barrier(x) * 0.7,
    "name": lambda x: checkpoint_name(x, "named") - 0.2,
    "checkpoint": lambda x: jax.checkpoint(lambda x: jnp.sin(jnp.exp(-x * x)))(x),
    "complex": lambda x: jnp.real(lax.complex(x, jnp.sin(x)) * jnp.conj(lax.complex(jnp.cos(x), x))),
}
CASTS = {"bfloat16": through(jnp.bfloat16), "float16": through(jnp.float16)}
BINARY = {
    "add": lambda x, y: x + y,
    "subtract": lambda x, y: x - y,
    "multiply": lambda x, y: x * y,
    "divide": lambda x, y: x / (2.0 + jnp.sin(y)),
    "divide by data": lambda x, y: x / jnp.where(jnp.abs(y) > 0.1, y, 1.0),
    "scale": lambda x, y: x * jnp.exp(jnp.tanh(y)) + y,
    "maximum of two": jnp.maximum,
    "where": lambda x, y: jnp.where(x > y, x, 0.5 * y),
    "atan2": lambda x, y: jnp.arctan2(x, y * y + 1.0),
    "power": lambda x, y: (x * x + 0.1) ** jnp.tanh(y),
    "matmul": lambda x, y: x @ y,
    "beside": lambda x, y: jnp.concatenate([x[:2], y[2:]], 0),
    "bury": lambda x, y: x * 1e-6 + y,
}
BOUNDED = [lambda x: x, lambda x: jnp.clip(x, -8.0, 8.0), jnp.tanh]


def lines(*tables, most=9):
    """A strategy for programs: each line names an operation, what it reads, and how its result is bounded."""
    return st.lists(
        st.tuples(
            st.sampled_from([name for table in tables for name in table]),
            st.integers(0, 5),
            st.integers(0, 5),
            st.integers(0, len(BOUNDED) - 1),
        ),
        min_size=1,
        max_size=most,
    )


def program_of(lines):
    """A function of two matrices that runs the lines, each on earlier results, and returns the last two."""

    def fun(x, w):
        values = [x, w]
        for name, i, j, bound in lines:
            a, b = values[-1 - i % len(values)], values[-1 - j % len(values)]
            value = BINARY[name](a, b) if name in BINARY else (UNARY | CASTS)[name](a)
            values.append(BOUNDED[bound](value))
        return values[-1], values[-2]

    return fun


def coupled(fun):
    """A pair, each half moved by the other: the carry can be had from the next one."""

    def body(carry, w):
        a, b = carry
        h, y = fun(b, w)
        a = a + jnp.tanh(h)
        return (a, b + 0.5 * jnp.sin(a @ w)), y

    return body


def direct(fun):
    """The program's results are the next carry, whether or not that can be undone."""

    def body(carry, w):
        h, y = fun(carry[0], w)
        return (jnp.clip(h, -8.0, 8.0), carry[1] + y * 0.1), h

    return body


def one_after_another(fun):
    """One matrix, moved by whatever the program makes of it."""

    def body(carry, w):
        h, y = fun(carry, w)
        return carry * 1.25 + jnp.tanh(h), y

    return body


FRAMES = {"coupled": coupled, "direct": direct, "one after another": one_after_another}
matrix = functools.partial(np.random.default_rng(0).normal, size=(N, N))
