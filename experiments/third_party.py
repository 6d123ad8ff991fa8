"""Blocks of other libraries, as they come: the gradient by `reversible` is that of plain autodiff.

    pip install equimo flowjax jraph diffrax numpyro penzai e3nn-jax jax-md ott-jax lineax optimistix
    python -m experiments.third_party

All of these libraries are optional. What is not installed, or cannot be imported with this JAX, is left out,
with the reason. Each block is called as its library's documentation calls it. The table gives how far the
gradient for all floats of its parameters and arguments is from the plain one, as a fraction of its norm, by
the default limit and at least memory, and the bytes that the second plan saves of those that plain keeps.
Where a block's result has the type of its first argument, `reversible_scan` also runs it three times. All of
it takes about two and a half minutes of one core. Claim: no distance is above 1e-5.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import bwsk_jax
from bwsk_jax.frameworks import equinox as siblings
from experiments.distance import distance

KEY = jr.key(0)
BLOCKS: dict[str, Callable[[], tuple[Any, ...]]] = {}
"""Each makes the block, a function or module of arrays, and its arguments."""


def block(make: Callable[[], tuple[Any, ...]]) -> Callable[[], tuple[Any, ...]]:
    """Register a block under its function's docstring."""
    BLOCKS[make.__doc__ or make.__name__] = make
    return make


@block
def _():
    """equimo: AttentionBlock"""
    from equimo.layers.attention import AttentionBlock

    made = AttentionBlock(32, 4, attn_drop=0.1, proj_drop=0.1, drop_path=0.1, key=KEY)
    return lambda x, made: made(x, key=KEY), jr.normal(KEY, (16, 32)), made


@block
def _():
    """equimo: MllaBlock"""
    from equimo.layers.attention import MllaBlock

    made = MllaBlock(32, num_heads=4, input_resolution=(8, 8), key=KEY)
    return lambda x, made: made(x, key=KEY), jr.normal(KEY, (64, 32)), made


@block
def _():
    """equimo: ConvNeXtBlock"""
    from equimo.layers.convolution import ConvNeXtBlock

    return lambda x, made: made(x, key=KEY), jr.normal(KEY, (16, 8, 8)), ConvNeXtBlock(16, key=KEY)


@block
def _():
    """equimo: SwiGlu"""
    from equimo.layers.ffn import SwiGlu

    return lambda x, made: made(x, key=KEY), jr.normal(KEY, (16, 32)), SwiGlu(32, hidden_dim=64, key=KEY)


@block
def _():
    """flowjax: Coupling of Affine"""
    from flowjax.bijections import Affine, Coupling

    made = Coupling(KEY, transformer=Affine(), untransformed_dim=4, dim=8, nn_width=32, nn_depth=1)
    return lambda x, made: jax.vmap(made.transform)(x), jr.normal(KEY, (16, 8)), made


@block
def _():
    """flowjax: Coupling of RationalQuadraticSpline, with its log-determinant"""
    from flowjax.bijections import Coupling, RationalQuadraticSpline

    spline = RationalQuadraticSpline(knots=8, interval=4)
    made = Coupling(KEY, transformer=spline, untransformed_dim=4, dim=8, nn_width=32, nn_depth=1)
    return lambda x, made: jax.vmap(made.transform_and_log_det)(x), jr.normal(KEY, (16, 8)), made


@block
def _():
    """flowjax: MaskedAutoregressive"""
    from flowjax.bijections import Affine, MaskedAutoregressive

    made = MaskedAutoregressive(KEY, transformer=Affine(), dim=8, nn_width=32, nn_depth=1)
    return lambda x, made: jax.vmap(made.transform)(x), jr.normal(KEY, (16, 8)), made


@block
def _():
    """jraph: GraphNetwork"""
    import jraph

    sender, receiver = jnp.array([0, 1, 2, 3, 0]), jnp.array([1, 2, 3, 0, 2])
    counts = {"n_node": jnp.array([4]), "n_edge": jnp.array([5]), "senders": sender, "receivers": receiver}
    mix = lambda w: lambda *parts: jnp.tanh(jnp.concatenate(parts, axis=-1) @ w)

    def network(nodes, edges, globals_, weights):
        net = jraph.GraphNetwork(*(mix(w) for w in weights))
        graph = net(jraph.GraphsTuple(nodes=nodes, edges=edges, globals=globals_, **counts))
        return graph.nodes, graph.edges, graph.globals

    weights = [jr.normal(KEY, (n, 8)) / 4 for n in (32, 32, 24)]
    return network, jr.normal(KEY, (4, 8)), jr.normal(KEY, (5, 8)), jr.normal(KEY, (1, 8)), weights


@block
def _():
    """diffrax: Tsit5, a neural differential equation"""
    import diffrax

    def solve(y, mlp):
        term = diffrax.ODETerm(lambda t, y, args: mlp(y))
        steps = {"t0": 0.0, "t1": 1.0, "dt0": 0.1, "adjoint": diffrax.DirectAdjoint(), "max_steps": 16}
        return diffrax.diffeqsolve(term, diffrax.Tsit5(), y0=y, **steps).ys[0]

    return solve, jr.normal(KEY, (8,)), eqx.nn.MLP(8, 8, 16, 1, activation=jnp.tanh, key=KEY)


@block
def _():
    """numpyro: BlockNeuralAutoregressiveNN"""
    from numpyro.nn import BlockNeuralAutoregressiveNN

    init, apply = BlockNeuralAutoregressiveNN(6, hidden_factors=[8, 8])
    return lambda x, params: apply(params, x), jr.normal(KEY, (16, 6)), init(KEY, (16, 6))[1]


@block
def _():
    """numpyro: AutoregressiveNN"""
    from numpyro.nn import AutoregressiveNN

    init, apply = AutoregressiveNN(6, [12, 12])
    return lambda x, params: apply(params, x), jr.normal(KEY, (16, 6)), init(KEY, (16, 6))[1]


@block
def _():
    """penzai: a Llama-like transformer"""
    from penzai import pz
    from penzai.models.transformer.variants import llamalike_common

    config = llamalike_common.LlamalikeTransformerConfig(
        num_kv_heads=2,
        query_head_multiplier=1,
        embedding_dim=16,
        projection_dim=8,
        mlp_hidden_dim=32,
        num_decoder_blocks=2,
        vocab_size=32,
        mlp_variant="geglu_approx",
        tie_embedder_and_logits=True,
    )
    model = llamalike_common.build_llamalike_transformer(config, init_base_rng=KEY)
    pure, parameters = pz.unbind_params(model, freeze=True)
    tokens = pz.nx.wrap(jnp.arange(8)[None]).tag("batch", "seq")

    def network(parameters):
        bound = pz.bind_variables(pure, parameters)
        return bound(tokens, token_positions=tokens).unwrap("batch", "seq", "vocabulary")

    return network, parameters


@block
def _():
    """e3nn: TensorProduct and gate"""
    import e3nn_jax as e3nn

    irreps = e3nn.Irreps("8x0e + 4x1o")

    def network(features, directions, weights):
        x = e3nn.IrrepsArray(irreps, features)
        y = e3nn.spherical_harmonics("0e + 1o", e3nn.IrrepsArray("1o", directions), True)
        product = e3nn.tensor_product(x, y, filter_ir_out=["0e", "1o"])
        return e3nn.gate(e3nn.concatenate([product * weights[0], x * weights[1]]).regroup()).array

    return network, jr.normal(KEY, (5, 20)), jr.normal(KEY, (5, 3)), jnp.array([0.5, 1.5])


@block
def _():
    """jax-md: forces of a Lennard-Jones fluid"""
    from jax_md import energy, quantity, space

    displacement, _ = space.periodic(4.0)
    force = quantity.force(energy.lennard_jones_pair(displacement))
    grid = jnp.stack(jnp.meshgrid(jnp.arange(3.0), jnp.arange(3.0)), axis=-1).reshape(-1, 2)
    positions = 1.3 * grid + 0.05 * jr.normal(KEY, (9, 2))
    return lambda x: x + 1e-3 * force(x), positions


@block
def _():
    """ott: ICNN"""
    from ott.neural.networks.icnn import ICNN

    network = ICNN(dim_data=4, dim_hidden=[16, 16])
    variables = network.init(KEY, jnp.ones((8, 4)))
    return lambda x, variables: network.apply(variables, x), jr.normal(KEY, (8, 4)), variables


@block
def _():
    """lineax: linear_solve"""
    import lineax

    def solve(x, matrix):
        return lineax.linear_solve(lineax.MatrixLinearOperator(matrix), jnp.tanh(x)).value

    return solve, jr.normal(KEY, (6,)), 3 * jnp.eye(6) + 0.3 * jr.normal(KEY, (6, 6))


@block
def _():
    """optimistix: fixed_point, a deep equilibrium layer"""
    import optimistix

    def layer(x, w):
        step = lambda z, args: jnp.tanh(w @ z + x)
        solver = optimistix.FixedPointIteration(rtol=1e-6, atol=1e-6)
        return optimistix.fixed_point(step, solver, jnp.zeros_like(x), throw=False).value

    return layer, jr.normal(KEY, (8,)), 0.1 * jr.normal(KEY, (8, 8))


# --- comparison --------------------------------------------------------------------------------------------


def loss_of(tree: Any) -> jax.Array:
    """A real number that depends on every float of a pytree."""
    floats = (leaf for leaf in jax.tree.leaves(tree) if eqx.is_inexact_array(leaf))
    return sum((jnp.sum(jnp.sin(leaf + 0.3) ** 2) for leaf in floats), jnp.float32(0))


def gradient(fun: Callable, args: tuple[Any, ...]) -> list[np.ndarray]:
    """The gradients of the loss with respect to all floats of the arguments, compiled."""
    compiled = eqx.filter_jit(eqx.filter_grad(lambda args: loss_of(fun(*args))))
    return [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(compiled(args))]


def repeated(fun: Callable, scan: Callable) -> Callable:
    """The block three times in a row, with the same parameters."""
    return lambda x, *rest: scan(lambda x, _: (fun(x, *rest), None), x, None, 3)[0]


def is_repeatable(fun: Callable, args: tuple[Any, ...]) -> bool:
    """Whether the result has the type of the first argument."""
    types = lambda tree: jax.tree.map(lambda a: (a.shape, a.dtype), eqx.filter(tree, eqx.is_array_like))
    result = eqx.filter_eval_shape(fun, *args)
    return isinstance(result, jax.ShapeDtypeStruct) and types(args[0]) == (result.shape, result.dtype)


def row(name: str) -> str:
    """A line of the table: the distances, and the bytes at least memory of those that plain keeps."""
    fun, *args = BLOCKS[name]()
    least = {"max_overhead": bwsk_jax.LEAST_MEMORY}
    plain = gradient(fun, tuple(args))
    found = [distance(gradient(siblings.reversible(fun, **how), tuple(args)), plain) for how in ({}, least)]
    cells = [f"{value:.1e}" for value in found]
    if is_repeatable(fun, tuple(args)):
        ours = repeated(fun, functools.partial(siblings.reversible_scan, **least))
        expected = gradient(repeated(fun, jax.lax.scan), tuple(args))
        cells.append(f"{distance(gradient(ours, tuple(args)), expected):.1e}")
    else:
        cells.append("")
    arrays, static = eqx.partition(args, eqx.is_array)
    plan = bwsk_jax.plan(
        lambda arrays: eqx.filter(fun(*eqx.combine(arrays, static)), eqx.is_array), arrays, **least
    )
    return f"| {name} | {' | '.join(cells)} | {plan.saved_bytes:,} of {plan.residual_bytes:,} |"


def main() -> None:
    """Print the table."""
    print(
        "| block | default | least memory | three in a scan | bytes saved |\n| --- | --- | --- | --- | --- |"
    )
    for name in BLOCKS:
        try:
            print(row(name), flush=True)
        except (ImportError, AttributeError) as missing:  # a library for another JAX misses names
            print(f"| {name} | left out: {missing} | | | |", flush=True)


if __name__ == "__main__":
    main()
