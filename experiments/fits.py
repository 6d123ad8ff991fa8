"""`bwsk_jax.fit` on models of other libraries, for machines that are not there.

    pip install equimo
    python -m experiments.fits --target v5e

Claim: within half of the peak of plain autodiff, `fit` finds a backward pass that keeps to it, and that is
never slower than the best of JAX's own policies which keep to it too. Time is the cycles that the compiler of
a TPU estimates; where a compiler estimates none, it is FLOPs.
Expected: a line for each model, with the way that was taken and "yes".
Cost: about 5 minutes for each model and target on 2 cores. What experiments/results/DEVICE/fits.json holds is
skipped.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from flax import linen as nn

import bwsk_jax
from bwsk_jax.errors import mistakes_in_one_line
from bwsk_jax.targets.fit import STOCK, Way
from bwsk_jax.usage import parse
from experiments.records import device_name, read, write

PLAIN, *POLICIES = STOCK
Model = tuple[Callable, tuple[Any, ...]]
"""A loss of a scan function and arrays, and the types of the arrays."""


def stack_of(make: Callable[[Any], Any], call: Callable, x: jax.ShapeDtypeStruct, layers: int) -> Model:
    """Return so many modules of Equinox, one after the other."""
    modules = eqx.filter_eval_shape(eqx.filter_vmap(make), jr.split(jr.key(0), layers))
    arrays, rest = eqx.partition(modules, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))
    body = lambda x, arrays: (call(eqx.combine(arrays, rest), x), None)
    return lambda scan, arrays, x: jnp.square(scan(body, x, arrays)[0]).mean(), (arrays, x)


def vision_transformer() -> Model:
    """equimo: AttentionBlock, 12 layers x 384, 64 images of 196 patches"""
    from equimo.layers.attention import AttentionBlock

    call = lambda block, x: jax.vmap(lambda one: block(one, key=jr.key(1)))(x)
    x = jax.ShapeDtypeStruct((64, 196, 384), jnp.float32)
    return stack_of(lambda key: AttentionBlock(384, 6, key=key), call, x, 12)


def convolutions() -> Model:
    """equimo: ConvNeXtBlock, 9 layers x 384, 64 images of 14 x 14"""
    from equimo.layers.convolution import ConvNeXtBlock

    call = lambda block, x: jax.vmap(lambda one: block(one, key=jr.key(1)))(x)
    x = jax.ShapeDtypeStruct((64, 384, 14, 14), jnp.float32)
    return stack_of(lambda key: ConvNeXtBlock(384, key=key), call, x, 9)


def recurrence() -> Model:
    """flax: OptimizedLSTMCell, 512 units, 256 steps of 512 sequences"""
    cell = nn.OptimizedLSTMCell(512)
    one = jax.ShapeDtypeStruct((512, 512), jnp.float32)
    variables = jax.eval_shape(cell.init, jr.key(0), (one, one), one)

    def loss(scan, variables, init, xs):
        body = lambda carry, x: (cell.apply(variables, carry, x)[0], None)
        return sum(jnp.square(leaf).mean() for leaf in scan(body, init, xs)[0])

    return loss, (variables, (one, one), jax.ShapeDtypeStruct((256, 512, 512), jnp.float32))


MODELS = (vision_transformer, convolutions, recurrence)


@dataclass(frozen=True)
class Options:
    """What is compiled for."""

    target: str = "v5e"
    """v5e, h100, and so on."""
    only: str = ""
    """Models whose names contain this."""


def figures(way: Way) -> dict[str, Any]:
    """Return what is kept of a way."""
    return {"way": way.name, "peak": way.peak, "time": way.time, "fits": way.fits}


def fitted(model: Model, target: str | None) -> dict[str, Any]:
    """Return what `fit` has found within half of the peak of plain autodiff, and all that it tried."""
    loss, args = model

    def make(**limit):
        scan = functools.partial(bwsk_jax.reversible_scan, **limit)
        return jax.jit(jax.grad(functools.partial(loss, scan)))

    plain = bwsk_jax.compile_for(make(plan=STOCK[PLAIN]), *args, target=target).peak_bytes
    found = bwsk_jax.fit(make, *args, memory=plain // 2, target=target)
    return {"memory": plain // 2, "best": found.best.name, "tried": [figures(way) for way in found.tried]}


def is_as_claimed(found: dict[str, Any]) -> bool:
    """Whether the best way keeps to the memory, and is no slower than each policy that does."""
    ways = {way["way"]: way for way in found["tried"]}
    best = ways[found["best"]]
    rivals = [way["time"] for name, way in ways.items() if name in POLICIES and way["fits"]]
    return best["peak"] <= found["memory"] and best["time"] <= min(rivals, default=math.inf)


def main() -> None:
    """Fit the models that the file does not have yet, then print a line for each."""
    with mistakes_in_one_line():
        options = parse(Options, None, description=__doc__)
    device = device_name(options.target)
    results = read(device, "fits") or {}
    for model in MODELS:
        name = model.__doc__ or model.__name__
        if name not in results and options.only in name:
            results[name] = fitted(model(), options.target)
            write(device, "fits", results)
    for name, found in results.items():
        best = next(way for way in found["tried"] if way["way"] == found["best"])
        of = f"{best['peak'] / 2**20:,.0f} of {found['memory'] / 2**20:,.0f} MiB"
        print(f"{name}: {found['best']}, {of}: {'yes' if is_as_claimed(found) else 'NO'}")


if __name__ == "__main__":
    main()
