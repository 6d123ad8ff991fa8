"""The same computation by us and by JAX: a loss, its gradients, and how close they have to be."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import bwsk_jax

INF = float("inf")
LEAST = functools.partial(bwsk_jax.reversible_scan, max_overhead=INF)
B, H, L = 2, 4, 5


def random(seed, *shape, dtype=jnp.float32, scale=0.5):
    return (scale * jax.random.normal(jax.random.key(seed), shape)).astype(dtype)


W = random(0, L, H, H)
X = random(1, B, H, scale=1.0)
INIT = (X, X + 1)


def is_float(leaf):
    return jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.inexact)


def loss_of(tree):
    """A real number that depends on every float of the tree."""
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree) if is_float(leaf)]
    return sum((jnp.sum(jnp.abs(jnp.sin(a + 0.3)) ** 2).astype(jnp.float32) for a in leaves), jnp.float32(0))


def gradients(fun, *args):
    """(value, gradients of the loss with respect to every float leaf of the arguments)."""
    leaves, tree = jax.tree.flatten(args)
    mask = [is_float(a) for a in leaves]

    def loss(varied):
        varied = iter(varied)
        out = fun(
            *jax.tree.unflatten(tree, [next(varied) if m else a for m, a in zip(mask, leaves, strict=True)])
        )
        return loss_of(out), out

    return jax.grad(loss, has_aux=True)([a for m, a in zip(mask, leaves, strict=True) if m])[::-1]


def raw(leaf):
    leaf = jnp.asarray(leaf)
    return np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)


def assert_same(ours, plain, rtol=1e-4):
    assert jax.tree.structure(ours) == jax.tree.structure(plain)
    for a, b in zip(map(raw, jax.tree.leaves(ours)), map(raw, jax.tree.leaves(plain)), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        if not is_float(b):
            np.testing.assert_array_equal(a, b)
            continue
        wide = np.complex128 if np.iscomplexobj(b) else np.float64
        a, b = a.astype(wide), b.astype(wide)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * max(1e-3, np.abs(b).max(initial=0)))


def both(make):
    """The same computation by us and by JAX."""
    return make(LEAST), make(lax.scan)


def warned(fun):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        jax.block_until_ready(fun())
        jax.effects_barrier()
    return [w for w in seen if issubclass(w.category, bwsk_jax.ReconstructionWarning)]
