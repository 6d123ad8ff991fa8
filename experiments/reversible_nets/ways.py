"""The gradient of a stack of layers: by plain autodiff, by `jax.checkpoint`, by plan, by hand."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import bwsk_jax
from experiments.reversible_nets.nets import Net, Size

__all__ = ["HAND", "OURS", "PLAIN", "WAYS", "Run", "gradient", "inputs", "loss_of"]

Run = Callable[[Net, Size, Any, Any], tuple[Any, Any]]
"""Runs the stack of a net on (params, pair); returns the last pair, and what the layers output."""


def by_scan(scan: Callable) -> Run:
    """Return how a scan with the arguments of `lax.scan` runs a stack."""

    def run(net: Net, size: Size, params: Any, pair: Any) -> tuple[Any, Any]:
        if net.tied:
            return scan(lambda pair, _: net.step(size, params, pair), pair, None, length=size.depth)
        return scan(lambda pair, p: net.step(size, p, pair), pair, params)

    return run


def by_hand(net: Net, size: Size, params: Any, pair: Any) -> tuple[Any, Any]:
    """Run a stack that keeps its last pair and the parameters, and goes back by `net.back`."""
    run = lambda params, pair: by_scan(lax.scan)(net, size, params, pair)
    reversible = jax.custom_vjp(run)

    def forward(params, pair):
        pair, outputs = run(params, pair)
        return (pair, outputs), (params, pair)

    def backward(kept, cotangents):
        (params, pair), (pair_bar, outputs_bar) = kept, cotangents

        def undo(state, layer):
            pair, pair_bar, total = state
            p, output_bar = (params, layer) if net.tied else layer
            pair, pair_bar, p_bar = net.back(size, p, pair, pair_bar, output_bar)
            if net.tied:
                return (pair, pair_bar, jax.tree.map(jnp.add, total, p_bar)), None
            return (pair, pair_bar, None), p_bar

        total = jax.tree.map(jnp.zeros_like, params) if net.tied else None
        layers = outputs_bar if net.tied else (params, outputs_bar)
        start = (pair, pair_bar, total)
        (_, pair_bar, total), each = lax.scan(undo, start, layers, length=size.depth, reverse=True)
        return (total if net.tied else each), pair_bar

    reversible.defvjp(forward, backward)
    return reversible(params, pair)


HAND, OURS, PLAIN = "by hand", "plan, least memory", "plain autodiff"
WAYS: dict[str, Run] = {
    HAND: by_hand,
    OURS: by_scan(functools.partial(bwsk_jax.reversible_scan, max_overhead=bwsk_jax.LEAST_MEMORY)),
    PLAIN: by_scan(lax.scan),
    "jax.checkpoint": by_scan(lambda body, *args, **length: lax.scan(jax.checkpoint(body), *args, **length)),
}


def loss_of(pair: Any, outputs: Any, dtype: Any) -> jax.Array:
    """Return a fixed random combination of what a stack returns."""
    leaves = jax.tree.leaves((pair, outputs))
    draws = (np.random.default_rng(seed).normal(size=leaf.shape) for seed, leaf in enumerate(leaves))
    return sum(
        (jnp.mean(leaf * draw.astype(dtype)) for leaf, draw in zip(leaves, draws, strict=True)),
        jnp.zeros((), dtype),
    )


def gradient(net: Net, size: Size, run: Run) -> Callable[[Any, Any], Any]:
    """Return the function from `inputs` to the gradient of `loss_of` in both."""

    def loss(params, x):
        pair, outputs = run(net, size, params, net.start(x))
        return loss_of(net.end(pair), outputs, x.dtype)

    return jax.grad(loss, (0, 1))


def inputs(net: Net, size: Size) -> tuple[Any, jax.Array]:
    """Return the parameters of all layers, and the array that the first pair is made of, in float32."""
    key, x_key = jax.random.split(jax.random.key(0))
    draw = lambda key: net.init(key, size)
    params = draw(key) if net.tied else jax.vmap(draw)(jax.random.split(key, size.depth))
    return params, jax.random.normal(x_key, (2, *net.shape(size)))
