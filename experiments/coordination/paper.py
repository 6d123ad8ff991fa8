"""Step times on paper: what each way to split a model computes and sends on many chips.

Nothing is compiled. A chip multiplies matrices at the peak of its maker, and sends the bytes of the predicted
meetings over all of its links at once, in rings: half of what the maker says of both directions. So the
times are the least that the layouts can take. What a message takes however short it is is not counted, nor is
memory traffic, nor are activations among the bytes that have to fit.

Each layer reads activations that are split by batch, and by sequence where there is such an axis. With fsdp
it puts its parameters together (Rajbhandari et al. 2020, "ZeRO", arXiv:1910.02054, stage 3).
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

import bwsk_jax
from bwsk_jax import bert
from bwsk_jax.targets import find_target

__all__ = ["CHIPS", "LAYOUTS", "MODELS", "estimate", "rows"]

CHIPS = (8, 64, 1024)
STATE = 16
"""Bytes of a parameter with its gradient and Adam's two moments, in float32."""
LAYOUTS: dict[str, Callable[[int], dict[str, int]]] = {
    "data": lambda chips: {"data": chips},
    "fsdp": lambda chips: {"fsdp": chips},
    "data x model": lambda chips: {"data": chips // 8, "model": 8},
    "data x sequence": lambda chips: {"data": chips // 8, "seq": 8},
}
"""The mesh of each layout on so many chips."""


class Model(NamedTuple):
    """A model, and the batch of a step, which is the same on any number of chips."""

    init: Callable[[jax.Array], Any]
    loss: Callable[[Callable, Any, jax.Array], jax.Array]
    """Of a scan over layers, parameters, and tokens."""
    layers: int
    width: int
    windows: int
    length: int


# --- models ------------------------------------------------------------------------------------------------


def _bert() -> Model:
    config = bert.PRESETS["base"]

    def loss(scan, params, ids_bt):
        hidden = bert.encode(config, params, ids_bt, dtype=jnp.bfloat16, scan=scan)
        return jax.nn.log_softmax(bert.predict(config, params, hidden))[..., 0].mean()

    init = lambda key: bert.init_params(config, key)
    return Model(init, loss, config.num_hidden_layers, config.hidden_size, 4096, 512)


V, H, F, N, L = 32_000, 4_096, 11_008, 32, 32  # vocabulary, width, feed-forward, heads, layers


def _llama() -> Model:
    """LLaMA 7B (Touvron et al., 2023), without its rotary positions, which send nothing."""
    shapes = {
        "attention": {
            **{name: {"kernel": (L, H, H)} for name in ("query", "key", "value")},
            "output": {"kernel": (L, H, H)},
        },
        "feed_forward": {"up": {"kernel": (L, H, 2, F)}, "down": {"kernel": (L, F, H)}},
        "norm": {"scale": (L, 2, H)},
    }
    is_shape = lambda x: isinstance(x, tuple)
    zeros = lambda shape: jnp.zeros(shape, jnp.float32)
    init = lambda key: {"words": zeros((V, H)), "layers": jax.tree.map(zeros, shapes, is_leaf=is_shape)}

    def layer(x_bth, params):
        p = jax.tree.map(lambda a: a.astype(x_bth.dtype), params)
        kernel = lambda room, name: p[room][name]["kernel"]
        normal_bth = _normal(x_bth) * p["norm"]["scale"][0]
        q, k, v = (
            (normal_bth @ kernel("attention", name)).reshape(*x_bth.shape[:2], N, H // N)
            for name in ("query", "key", "value")
        )
        scores_bnts = jnp.einsum("btnd,bsnd->bnts", q, k) + jnp.triu(
            jnp.full((q.shape[1],) * 2, -1e9), 1
        ).astype(q.dtype)
        mixed_bth = jnp.einsum("bnts,bsnd->btnd", jax.nn.softmax(scores_bnts), v).reshape(x_bth.shape)
        x_bth = x_bth + mixed_bth @ kernel("attention", "output")
        up = jnp.einsum("bth,hcf->btcf", _normal(x_bth) * p["norm"]["scale"][1], kernel("feed_forward", "up"))
        return x_bth + (jax.nn.silu(up[:, :, 0]) * up[:, :, 1]) @ kernel("feed_forward", "down"), None

    def loss(scan, params, ids_bt):
        words = params["words"].astype(jnp.bfloat16)
        x_bth, _ = scan(jax.checkpoint(layer), words[ids_bt], params["layers"])
        return jax.nn.log_softmax((_normal(x_bth) @ words.T).astype(jnp.float32))[..., 0].mean()

    return Model(init, loss, L, H, 1024, 4096)


def _normal(x_bth: jax.Array) -> jax.Array:
    return x_bth * jax.lax.rsqrt(jnp.square(x_bth).mean(-1, keepdims=True) + 1e-6)


MODELS: Mapping[str, Callable[[], Model]] = {"BERT-base": _bert, "LLaMA 7B": _llama}


def _layer_by_layer(mesh: AbstractMesh, activations: PartitionSpec) -> Callable:
    """`jax.lax.scan` over layers that says how each of them finds activations and parameters."""
    lay = lambda x, spec: jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))

    def scan(body, x_bth, xs):
        def laid_out(x_bth, layer):
            if "fsdp" in mesh.axis_names:
                layer = jax.tree.map(lambda x: lay(x, PartitionSpec()), layer)
            return body(lay(x_bth, activations), layer)

        return jax.lax.scan(laid_out, lay(x_bth, activations), xs)

    return scan


# --- estimates ---------------------------------------------------------------------------------------------


def estimate(name: str, layout: str, chips: int, target: str) -> dict[str, Any]:
    """The least step time of a model that is split in a way over so many chips of a kind."""
    model, sizes = MODELS[name](), LAYOUTS[layout](chips)
    params = jax.eval_shape(model.init, jax.random.key(0))
    specs = bert.param_specs(params, sizes)
    ids = PartitionSpec(next(iter(sizes)), "seq" if "seq" in sizes else None)
    mesh = AbstractMesh(tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))
    report = bwsk_jax.calm(
        jax.value_and_grad(functools.partial(model.loss, _layer_by_layer(mesh, ids))),
        params,
        jax.ShapeDtypeStruct((model.windows, model.length), jnp.int32),
        mesh=mesh,
        in_specs=(specs, ids),
        out_specs=(PartitionSpec(), specs),
    )
    device = find_target(target).device
    sent: Counter[str] = Counter()
    for meeting in report.meetings:
        sent[f"{meeting.kind} over {'+'.join(meeting.axes)}"] += round(meeting.wire * meeting.times)
    compute = _flops(model, params) / chips / device.products["bfloat16"]
    meet = sum(sent.values()) / (device.link / 2)
    largest, size = sent.most_common(1)[0]
    state = STATE * sum(
        x.size / math.prod(sizes[axis] for axis in spec if axis)
        for x, spec in zip(jax.tree.leaves(params), jax.tree.leaves(specs), strict=True)
    )
    return {
        "compute": compute,
        "meet": meet,
        "meetings in a row": report.critical_path,
        "sent": sum(sent.values()),
        "largest": largest,
        "share": size / sum(sent.values()),
        "in turns": compute / (compute + meet),
        "at once": compute / max(compute, meet),
        "state": state,
        "fits": state <= device.memory,
    }


def _flops(model: Model, params: Any) -> float:
    """Of a step: 6 for each weight of a matrix and token, and the products of attention."""
    weights = sum(x.size for x in jax.tree.leaves(params) if x.ndim > 1)
    tokens = model.windows * model.length
    return 6.0 * weights * tokens + 12.0 * model.layers * model.width * model.length * tokens


def rows(found: Mapping[str, dict[str, Any]]) -> list[tuple[str, ...]]:
    """The table of estimates, by their names."""
    heads = ("model, layout, chips", "computes", "sends", "for", "efficiency in turns", "at once", "most is")
    return [
        heads,
        *(
            (
                name + ("" if each["fits"] else f" (does not fit: {each['state'] / 1e9:,.0f} GB)"),
                f"{1e3 * each['compute']:,.1f} ms",
                f"{each['sent'] / 1e9:,.2f} GB",
                f"{1e3 * each['meet']:,.1f} ms",
                f"{each['in turns']:.0%}",
                f"{each['at once']:.0%}",
                f"{each['largest']} ({each['share']:.0%})",
            )
            for name, each in found.items()
        ),
    ]
