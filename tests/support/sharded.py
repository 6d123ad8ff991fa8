"""Sharded programs to predict and to compile: small ones, and the training step of a small BERT."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import bwsk_jax
from bwsk_jax import bert


class Sharded(NamedTuple):
    """A function, its arguments, the mesh axes, and how both ends are split."""

    fun: Any
    args: tuple
    axes: dict[str, int]
    in_specs: Any
    out_specs: Any = None

    @property
    def mesh(self):
        return jax.make_mesh(
            tuple(self.axes.values()), tuple(self.axes), axis_types=(AxisType.Auto,) * len(self.axes)
        )

    def predict(self):
        return bwsk_jax.calm(
            self.fun, *self.args, mesh=self.mesh, in_specs=self.in_specs, out_specs=self.out_specs
        )

    def compile(self):
        mesh = self.mesh
        place = lambda spec: NamedSharding(mesh, spec)
        is_spec = lambda spec: isinstance(spec, P)
        specs = jax.tree.broadcast(self.in_specs, self.args, is_leaf=is_spec)
        args = jax.tree.map(
            lambda a, spec: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place(spec)), self.args, specs
        )
        out = None if self.out_specs is None else jax.tree.map(place, self.out_specs, is_leaf=is_spec)
        return jax.jit(self.fun, out_shardings=out).lower(*args).compile()

    def predict_and_check(self):
        return self.predict().check(self.compile())


def array(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


# --- small programs ----------------------------------------------------------------------------------------

B, H, F, L = 64, 16, 32, 3  # batch, hidden, feed-forward, layers


def feed_forward(params, x_bh):
    up_hf, down_fh = params
    return x_bh + jnp.tanh(x_bh @ up_hf) @ down_fh


def loss(params, x_bh):
    return jnp.square(feed_forward(params, x_bh)).mean()


def scanned_loss(params, x_bh):
    out_bh, _ = jax.lax.scan(lambda x_bh, layer: (feed_forward(layer, x_bh), None), x_bh, params)
    return jnp.square(out_bh).mean()


LAYER, LAYERS, X = (array(H, F), array(F, H)), (array(L, H, F), array(L, F, H)), array(B, H)
MEGATRON = (P(None, "model"), P("model", None))


def _by_hand(x_bh):
    """A `shard_map` that calls each kind of collective, in a loop too."""
    mesh = jax.sharding.AbstractMesh((2, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=P("data", "model"), out_specs=P("data", "model"))
    def run(x_bh):
        shift = lambda x_bh, _: (jax.lax.ppermute(x_bh, "data", [(0, 1), (1, 0)]) * 2, None)
        x_bh, _ = jax.lax.scan(shift, x_bh, length=3)
        whole = jax.lax.all_gather(x_bh, "model", axis=1, tiled=True)
        x_bh = x_bh + jax.lax.psum_scatter(jnp.sin(whole), "model", scatter_dimension=1, tiled=True)
        x_bh = jax.lax.all_to_all(x_bh, "data", split_axis=0, concat_axis=0, tiled=True)
        return x_bh / jax.lax.psum(x_bh, ("data", "model")) - jax.lax.pmax(x_bh, "data")

    return run(jnp.tanh(x_bh))


def _fsdp(spec, size):
    return P(*(axis or "data" if k == 0 else axis for k, axis in enumerate((*spec, *[None] * size)[:size])))


PROGRAMS = {
    "data parallel": Sharded(
        jax.value_and_grad(loss), (LAYER, X), {"data": 4}, (P(), P("data")), (P(), (P(), P()))
    ),
    "tensor parallel": Sharded(
        jax.value_and_grad(loss), (LAYER, X), {"model": 4}, (MEGATRON, P()), (P(), MEGATRON)
    ),
    "data and tensor parallel": Sharded(
        jax.value_and_grad(loss),
        (LAYER, X),
        {"data": 2, "model": 2},
        (MEGATRON, P("data")),
        (P(), MEGATRON),
    ),
    "fully sharded": Sharded(
        jax.value_and_grad(loss),
        (LAYER, X),
        {"data": 4},
        ((P("data"), P("data")), P("data")),
        (P(), (P("data"), P("data"))),
    ),
    "a scan over layers": Sharded(
        jax.value_and_grad(scanned_loss),
        (LAYERS, X),
        {"data": 2, "model": 2},
        ((P(None, None, "model"), P(None, "model", None)), P("data")),
    ),
    "a scan over fully sharded layers": Sharded(
        jax.value_and_grad(scanned_loss),
        (LAYERS, X),
        {"data": 4},
        ((P(None, "data"), P(None, "data")), P("data")),
        (P(), (P(None, "data"), P(None, "data"))),
    ),
    "a maximum and a softmax over a split dimension": Sharded(
        lambda x_bh: (jax.nn.softmax(x_bh), x_bh.max(0)), (X,), {"data": 2, "model": 2}, (P("data", "model"),)
    ),
    "a relayout": Sharded(lambda x_bh: jnp.tanh(x_bh), (X,), {"data": 4}, (P("data"),), P(None, "data")),
    "rows times columns, split over one axis": Sharded(
        jax.grad(lambda w_hf, x_bh: jnp.tanh(x_bh @ w_hf).sum()),
        (array(H, 16 * F), array(16, H)),
        {"data": 4},
        (P(None, "data"), P("data")),
        P(None, "data"),
    ),
    "a sum of values that are split otherwise": Sharded(
        lambda x_bh, y_bh: jnp.sin(x_bh) * 2 + jnp.cos(y_bh),
        (X, X),
        {"data": 4},
        (P("data"), P(None, "data")),
    ),
    "more devices than heads": Sharded(
        lambda q_bnth, k_bnth: jax.nn.softmax(jnp.einsum("bnth,bnsh->bnts", q_bnth, k_bnth)),
        (array(2, 2, 8, H), array(2, 2, 8, H)),
        {"data": 2, "model": 4},
        (P("data", None, "model"), P("data", None, None, "model")),
    ),
    "shard_map": Sharded(_by_hand, (X,), {"data": 2, "model": 2}, (P("data", "model"),)),
}


ROWS = P("data")


def _rows(fun, size, out=ROWS):
    return Sharded(fun, (array(size, 4),), {"data": 8}, (P("data"),), out)


def _convolved(fun, stride=1):
    convolve = functools.partial(
        jax.lax.conv_general_dilated,
        window_strides=(stride,),
        padding="SAME",
        dimension_numbers=("NWC", "WIO", "NWC"),
    )
    args = array(2, 32, 4), array(3, 4, 4)
    return Sharded(
        functools.partial(fun, convolve), args, {"data": 8}, (P(None, "data"), P()), P(None, "data")
    )


HALOS = {
    "the first half": _rows(lambda x: jnp.sin(x[:8]), 16),
    "few rows": _rows(lambda x: jnp.sin(x[:3]), 16, None),
    "rows not in even parts": _rows(lambda x: jnp.sin(x[:7]), 16, None),
    "every third row": _rows(lambda x: jnp.sin(x[1::3]), 32, None),
    "a rotation by less than a part": _rows(lambda x: x[1:] - x[:-1], 16, None),
    "differences": _rows(lambda x: jnp.pad(x[1:] - x[:-1], ((0, 1), (0, 0))), 16),
    "rows in reverse": _rows(lambda x: jnp.flip(x, 0), 16),
    "halves added": _rows(lambda x: sum(jnp.split(x, 2)), 32),
    "two in one": _rows(lambda x: jnp.concatenate([x, 2 * x]), 16),
    "a running sum": _rows(lambda x: jnp.cumsum(x, 0), 16),
    "a running maximum": _rows(lambda x: jax.lax.cummax(x, 0), 64),
    "a maximum over windows": _rows(
        lambda x: jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (3, 1), (1, 1), "SAME"), 32
    ),
    "a convolution": _convolved(lambda convolve, x, w: convolve(x, w)),
    "a convolution with strides": _convolved(lambda convolve, x, w: convolve(x, w), stride=2),
    "its gradient in what it convolves": _convolved(
        lambda convolve, x, w: jax.grad(lambda x: jnp.sin(convolve(x, w)).sum())(x)
    ),
    "a scan over split time": _rows(lambda x: jax.lax.scan(lambda c, x: (c + x, c * x), x[0], x)[1], 16),
}
"""Programs that read the edges of the neighbours' parts."""

# --- BERT --------------------------------------------------------------------------------------------------

CONFIG = bert.BertConfig(
    vocab_size=128,
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=8,
    intermediate_size=128,
    max_position_embeddings=64,
)
MESHES = {
    "data": {"data": 4},
    "model": {"model": 4},
    "sequence": {"seq": 4},
    "data, model": {"data": 2, "model": 2},
    "data, sequence": {"data": 2, "seq": 2},
    "fully sharded": {"data": 4},
}


SCANS = {
    "plain": jax.lax.scan,
    "checkpoint": lambda body, init, xs: jax.lax.scan(jax.checkpoint(body), init, xs),
    "reversible": functools.partial(bwsk_jax.reversible_scan, max_overhead=0.03),
    "least": functools.partial(bwsk_jax.reversible_scan, max_overhead=math.inf),
}
"""Ways in which the backward pass of the layers finds its residuals."""
STEPS = [*((mesh, "least") for mesh in MESHES), ("data, model", "checkpoint"), ("data, model", "reversible")]
"""Each of `MESHES`, and each of `SCANS` but the plain one, which has tests of its own; for `bert_step`."""


def bert_step(mesh, scan=jax.lax.scan):
    """The loss and gradients of masked-language modelling on one of `MESHES`; `scan` walks the layers."""
    axes = MESHES[mesh]
    params = jax.eval_shape(lambda key: bert.init_params(CONFIG, key), jax.random.key(0))

    def loss(params, ids_bt, key):
        hidden = bert.encode(CONFIG, params, ids_bt, dropout_key=key, scan=scan)
        return jax.nn.log_softmax(bert.predict(CONFIG, params, hidden))[..., 0].mean()

    specs = bert.param_specs(params, axes)
    if mesh == "fully sharded":
        first = lambda x: next((k for k, size in enumerate(x.shape) if size % 16 == 0), None)
        specs = jax.tree.map(lambda x: P(*[None] * k, "data") if (k := first(x)) is not None else P(), params)
    ids = P("data" if "data" in axes else None, "seq" if "seq" in axes else None)
    key = jax.eval_shape(lambda: jax.random.key(0, impl="rbg"))
    return Sharded(
        jax.value_and_grad(loss),
        (params, array(16, 32, dtype=jnp.int32), key),
        axes,
        (specs, ids, P()),
        (P(), specs) if mesh == "fully sharded" else None,
    )
