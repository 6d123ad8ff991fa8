"""Costly inverses of what moves elements: slices, scatters, sorts, devices, and keys for random numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import primitives as p

from bwsk_jax.classification.values import ValueInfo
from bwsk_jax.engine.program.jaxprs import Equation, present
from bwsk_jax.engine.program.types import is_differentiable, is_real
from bwsk_jax.engine.rules.exactness import Grade
from bwsk_jax.engine.rules.inverses import Inverse

__all__ = ["OF_MOVES"]

_ALL_EXIST = "all places exist"


# --- slices and scatters ---------------------------------------------------------------------------------


def _drops_nothing(equation, info):
    """Reshape back what has as many results as elements: a whole slice, a reduction of axes of length 1."""
    shape = equation.in_avals[0].shape
    if math.prod(shape) == math.prod(equation.out_avals[0].shape):
        yield Inverse(0, lambda ins, outs: lax.reshape(outs[0], shape), Grade.EXACT, reads=())


def _scatter_sum(equation, info):
    """Subtract what was added; or read what was added, if no two elements were added to one place."""
    grade = Grade.ROUNDED if is_differentiable(equation.out_avals[0]) else Grade.EXACT
    if equation.inputs[0] == equation.inputs[2]:
        return
    yield Inverse(0, lambda ins, outs: _bind(equation, outs[0], ins[1], -ins[2]), grade)
    if equation.params["unique_indices"] and is_differentiable(equation.in_avals[2]):
        solve = lambda ins, outs: _read(equation, outs[0] - ins[0], ins[1])
        yield Inverse(2, solve, Grade.GUARDED, condition=_ALL_EXIST)


def _scatter(equation, info):
    """Read the update from where it was written, if no two elements were written to one place."""
    if equation.params["unique_indices"] and is_differentiable(equation.in_avals[2]):
        solve = lambda ins, outs: _read(equation, outs[0], ins[1])
        yield Inverse(2, solve, Grade.GUARDED, reads=(1,), condition=_ALL_EXIST)


def _read(equation, written, indices):
    """The elements at the places of the update, as a scatter's own VJP reads the cotangent there."""
    update = equation.in_avals[2]
    write = lambda u: _bind(equation, jnp.zeros_like(written), indices, u)
    _, read = jax.vjp(write, jnp.zeros(update.shape, update.dtype))
    return read(written)[0]


def _scatter_mul(equation, info):
    if is_real(equation.out_avals[0]) and equation.inputs[0] != equation.inputs[2]:
        solve = lambda ins, outs: _bind(equation, outs[0], ins[1], 1 / ins[2])
        yield Inverse(0, solve, Grade.GUARDED, condition="no factor is 0")


def _bind(equation, *operands):
    return equation.bind(operands)[0]


# --- orders ------------------------------------------------------------------------------------------------


def _reordered(values, permutation, axis: int):
    """The array of which `values` are the elements in the order of `permutation`."""
    return jnp.take_along_axis(values, jnp.argsort(permutation, axis), axis)


def _sort(equation, info):
    """Send all elements back to where they were, if one operand numbers them: it becomes the permutation."""
    axis = equation.params["dimension"]
    for place, number in enumerate(equation.inputs):
        if info.numbers.get(number) != axis:
            continue
        for operand in range(len(equation.inputs)):
            if operand != place:
                solve = lambda ins, outs, k=operand, n=place: _reordered(outs[k], outs[n], axis)
                yield Inverse(operand, solve, Grade.EXACT, reads=())
        return


def _top_k(equation, info):
    """Send all elements back to where they were, if all are among the largest."""
    axis = equation.params["axis"]
    if equation.params["k"] == equation.in_avals[0].shape[axis]:
        yield Inverse(0, lambda ins, outs: _reordered(outs[0], outs[1], axis), Grade.EXACT, reads=())


# --- keys for random numbers -------------------------------------------------------------------------------

_IMPLEMENTATIONS = {"key<fry>": "threefry2x32", "key<rbg>": "rbg", "key<urbg>": "unsafe_rbg"}
"""The implementations of JAX by the types of their keys."""


def _key_primitive(fun: Callable) -> Any:
    """The primitive of a public function from words to a key, or from that key to its words."""
    words = jax.ShapeDtypeStruct((2,), jnp.uint32)
    wrap = lambda words: jax.random.wrap_key_data(words, impl="threefry2x32")
    traced = jax.make_jaxpr(lambda words: fun(wrap(words)))(words)
    return traced.eqns[-1].primitive


_WRAP, _UNWRAP = _key_primitive(lambda key: key), _key_primitive(jax.random.key_data)


def _wrap(equation, info):
    """A key is its words."""
    yield Inverse(0, lambda ins, outs: jax.random.key_data(outs[0]), Grade.EXACT)


def _unwrap(equation, info):
    """A key is its words."""
    if implementation := _IMPLEMENTATIONS.get(str(equation.in_avals[0].dtype)):
        solve = lambda ins, outs: jax.random.wrap_key_data(outs[0], impl=implementation)
        yield Inverse(0, solve, Grade.EXACT)


def _seed(equation, info):
    """The first two words of a key are the seed, the high word first."""
    seed = equation.in_avals[0].dtype
    if str(equation.out_avals[0].dtype) in _IMPLEMENTATIONS:

        def solve(ins, outs):
            words = jax.random.key_data(outs[0])
            high, low = (words[..., k].astype(seed) for k in (0, 1))
            return low if jnp.iinfo(seed).bits <= 32 else (high << 32) | words[..., 1].astype(seed)

        yield Inverse(0, solve, Grade.EXACT)


def _fold_in(equation, info):
    """Solve for the number that was folded into a key.

    Threefry is a cipher: given the key, which is known, it maps its blocks of two words one to one. The
    number is the second word of such a block. It is not known to be one to one in the key. The unsafe
    generator instead adds bits that only depend on the number, so that there the key comes back.
    """
    implementation = _IMPLEMENTATIONS.get(str(equation.in_avals[0].dtype))
    if implementation == "unsafe_rbg":

        def key(ins, outs):
            words = jax.random.key_data(outs[0])
            wrap = lambda words: jax.random.wrap_key_data(words, impl=implementation)
            (bits,) = equation.bind([wrap(jnp.zeros_like(words)), ins[1]])
            return wrap(words ^ jax.random.key_data(bits))

        if equation.in_avals[0].shape == equation.out_avals[0].shape:
            yield Inverse(0, key, Grade.EXACT)
    elif implementation is not None and equation.in_avals[1].shape == equation.out_avals[0].shape:

        def number(ins, outs):
            key, out = (jax.random.key_data(k)[..., :2] for k in (ins[0], outs[0]))
            key = jnp.broadcast_to(key, out.shape)
            return _decipher(key[..., 0], key[..., 1], out[..., 0], out[..., 1])[1]

        yield Inverse(1, number, Grade.EXACT)


_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def _decipher(key_0, key_1, x_0, x_1):
    """The block that Threefry-2x32 of 20 rounds maps to (x_0, x_1), by its rounds from the last to the first.

    See Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011).
    """
    keys = (key_0, key_1, key_0 ^ key_1 ^ np.uint32(0x1BD11BDA))
    for group in reversed(range(5)):
        x_0 = x_0 - keys[(group + 1) % 3]
        x_1 = x_1 - keys[(group + 2) % 3] - np.uint32(group + 1)
        for rotation in reversed(_ROTATIONS[group % 2]):
            x_1 = x_1 ^ x_0
            x_1 = (x_1 >> np.uint32(rotation)) | (x_1 << np.uint32(32 - rotation))
            x_0 = x_0 - x_1
    return x_0 - keys[0], x_1 - keys[1]


# --- devices ---------------------------------------------------------------------------------------------


def _permute(equation, info):
    """Send everything back, if every device that sent also received."""
    pairs = equation.params["perm"]
    sources, targets = ({pair[side] for pair in pairs} for side in (0, 1))
    if sources == targets:
        axis, back = equation.params["axis_name"], [(target, source) for source, target in pairs]
        yield Inverse(0, lambda ins, outs: lax.ppermute(outs[0], axis, back), Grade.EXACT)


def _move(equation, info):
    """Take each result for its operand: only the place has changed."""
    for operand in range(len(equation.inputs)):
        yield Inverse(operand, lambda ins, outs, k=operand: outs[k], Grade.EXACT, reads=())


OF_MOVES: dict[Any, Callable[[Equation, ValueInfo], Iterable[Inverse]]] = {
    **dict.fromkeys(
        (p.slice_p, p.dynamic_slice_p, p.reduce_sum_p, p.reduce_max_p, p.reduce_min_p), _drops_nothing
    ),
    **dict.fromkeys((p.reduce_prod_p, p.reduce_and_p, p.reduce_or_p, p.reduce_xor_p), _drops_nothing),
    p.scatter_p: _scatter,
    p.scatter_add_p: _scatter_sum,
    lax.scatter_sub_p: _scatter_sum,
    p.scatter_mul_p: _scatter_mul,
    p.sort_p: _sort,
    p.top_k_p: _top_k,
    p.ppermute_p: _permute,
    **dict.fromkeys((p.device_put_p, *present("pvary_p")), _move),
    _WRAP: _wrap,
    _UNWRAP: _unwrap,
    p.random_seed_p: _seed,
    p.random_fold_in_p: _fold_in,
}
"""The part of `COSTLY_INVERSES` that this file gives."""
