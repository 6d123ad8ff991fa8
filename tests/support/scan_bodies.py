"""Bodies to scan over, each with a carry and inputs: what a user might write, and what a user should not."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.support.parity import LEAST, B, H, L, W, X, random


def coupling(c, w):
    a = c[0] + jnp.tanh(c[1] @ w)
    return (a, c[1] + jnp.tanh(a @ w)), None


def dense(c, w):
    return jnp.tanh(c @ w), None


def with_outputs(c, w):
    h = jnp.tanh(c @ w)
    return c + h, {"h": h, "mean": c.mean(), "none": None}


def integers_and_keys(c, x):
    key, sub = jax.random.split(c["key"])
    kept = jax.random.bernoulli(sub, 0.7, c["h"].shape) & c["flag"]
    h = c["h"] + jnp.where(kept, jnp.sin(c["h"] @ x["w"]) * x["n"], 0.0)
    new = {"h": h, "count": c["count"] + x["n"], "flag": ~c["flag"] | x["on"], "key": key}
    return new, (c["count"], kept)


def passing_through(c, w):
    fixed, scale, moving = c
    return (fixed, scale, moving + jnp.tanh(moving @ w) * scale + fixed), fixed * 2


def rotating(c, w):
    return (c[1], c[2], c[0] + jnp.sin(c[1] @ w)), c[0]


def masked(c, w):
    a, b = c
    b = b + jax.nn.relu(a) @ w
    a = a + jnp.maximum(b, 0.0) - jnp.abs(b)
    return (a, b), None


def pooled(c, w):
    a, b = c
    top, where = lax.top_k(b, 2)
    best = jnp.argmax(b, -1, keepdims=True)
    a = a + jnp.sort(b, -1) * top.sum() + jnp.take_along_axis(b, best, -1) + where.sum()
    return (a, b + lax.reduce_window(b, -jnp.inf, lax.max, (1, 2), (1, 1), "SAME") @ w), None


@jax.custom_jvp
def steep(x):
    return jnp.sin(x)


steep.defjvp(lambda primals, tangents: (steep(primals[0]), 3.0 * tangents[0]))


@jax.custom_vjp
def scaled(x, k):
    return jnp.exp(x) * k


scaled.defvjp(lambda x, k: (jnp.exp(x) * k, (x, k)), lambda kept, ct: (7 * ct * jnp.cos(kept[0]), None))


def custom(c, w):
    return c + steep(c @ w) * 0.1 + scaled(jnp.tanh(c), jnp.int32(2)) * 0.1 + lax.stop_gradient(c) * jnp.sin(
        c
    ), None


def control_flow(c, w):
    h = lax.fori_loop(0, 2, lambda i, h: jnp.tanh(h @ w), c)
    h = lax.cond(w[0, 0] > 0, jnp.sin, jnp.cos, h)
    steps = lax.while_loop(lambda s: s < 3, lambda s: s + 1, jnp.int32(0))
    return c * 0.9 + h * steps, lax.scan(lambda s, x: (s + x, s), jnp.zeros(H), h)[1]


def nested(c, w):
    return LEAST(coupling, c, jnp.stack([w, w.T]))[0], c[0].sum()


def nested_plain(c, w):
    return lax.scan(coupling, c, jnp.stack([w, w.T]))[0], c[0].sum()


def unused(c, x):
    return (c[0] + 1.0, jnp.tanh(c[1])), None


def constant_outputs(c, w):
    return (jnp.zeros_like(c[0]), c[0] @ w), (1.0, w, jnp.arange(3))


def momentum(c, g):
    x, v = c
    v = 0.9 * v + jnp.tanh(x * g)
    return (x - 0.1 * v, v), None


def complex_rotation(c, w):
    return c * jnp.exp(1j * jnp.sin(jnp.real(c) @ w)) + jnp.conj(c) * 0.1, jnp.abs(c)


def remat_inside(c, w):
    return jax.checkpoint(lambda c: coupling(c, w)[0])(c), None


def half_precision(c, w):
    h = jnp.tanh(c.astype(jnp.float32) @ w)
    return c + h.astype(c.dtype), None


def mixed_types(c, w):
    a, b = c
    a = a + jnp.tanh(b.astype(jnp.float32) @ w)
    return (a, b + jnp.sin(a).astype(jnp.bfloat16)), a.astype(jnp.bfloat16)


def block(x, w):
    h = jax.nn.gelu(x @ w, approximate=False)
    return jnp.where(h > 0.1, h, 0.0) @ w.T + x, h.astype(jnp.bfloat16)


KEY = jax.random.key(7)
CASES = {
    "coupling": (coupling, (X, X + 1), W, None),
    "dense": (dense, X, W, None),
    "outputs": (with_outputs, X, W, None),
    "integers, bools and keys": (
        integers_and_keys,
        {"h": X, "count": jnp.int32(0), "flag": jnp.asarray(True), "key": KEY},
        {"w": W, "n": jnp.arange(L, dtype=jnp.int32), "on": jnp.arange(L) % 2 == 0},
        None,
    ),
    "passing through": (passing_through, (X, jnp.float32(0.3), X * 2), W, None),
    "rotating": (rotating, (X, X + 1, X - 1), W, None),
    "masks and exact zeros": (
        masked,
        (X * jnp.asarray([0.0, 1, 1, 0])[None], X * jnp.asarray([0.0, 0, 1, 1])[None]),
        W,
        None,
    ),
    "top_k, sort, argmax, max-pool": (pooled, (X, jnp.round(X)), W * 0.1, None),
    "custom derivatives": (custom, X, W, None),
    "control flow": (control_flow, X, W, None),
    "remat inside": (remat_inside, (X, X), W, None),
    "unused": (unused, (X, X), (W, jnp.arange(L)), None),
    "constants out": (constant_outputs, (X, X), W, None),
    "momentum": (momentum, (X, X * 0.1), random(3, L, B, H), None),
    "no xs": (lambda c, _: (jnp.tanh(c) + 0.5, c.sum()), X, None, 4),
    "the root of a literal": (lambda c, w: (c + c @ w / jnp.sqrt(8.0), None), X, W, None),
    "empty xs": (lambda c, _: (jnp.tanh(c) + 0.5, None), X, {"a": None, "b": ()}, 4),
    "empty carry": (lambda _, w: (None, jnp.sin(w)), None, W, None),
    "no float in the carry": (lambda n, w: (n + 1, jnp.sin(w) * n), jnp.int32(0), W, None),
    "length 0": (dense, X, W[:0], None),
    "length 1": (coupling, (X, X), W[:1], None),
    "weak types": (lambda c, x: ((c[0] + x, c[1] * 2 + 1), c[0]), (0.0, 1), jnp.arange(3.0), None),
    "complex": (complex_rotation, (random(4, B, H) + 1j * random(5, B, H)), W, None),
    "zero-sized": (dense, jnp.zeros((0, H)), W, None),
    "unrolled shapes": (
        lambda c, w: (c.reshape(-1)[::-1].reshape(B, H).T.reshape(B, H) * w, c.T),
        X,
        random(6, L, B, H),
        None,
    ),
}
