"""Transformers predict the next character of Python's own help.

    python -m experiments.examples.transformer

Claim: no layer of a transformer can be inverted as a whole, so that least memory is what `jax.checkpoint`
does. With 3% of recomputation a plan keeps less than half of what plain autodiff keeps.
Expected: the same losses in every row.
Cost: about two minutes on two cores.
"""

import functools
import math
import pydoc_data.topics

import jax
import jax.numpy as jnp
import numpy as np

from experiments.examples.comparison import arguments, compare, normal

BATCH, TIME, WIDTH, HEADS = 8, 128, 64, 4


def characters() -> np.ndarray:
    """Return the codes of the characters of Python's help."""
    text = "\n".join(pydoc_data.topics.topics.values())
    return np.frombuffer(text.encode("ascii", "ignore"), np.uint8).astype(np.int32)


def normalised(x, scale):
    """Return a layer norm without a shift."""
    x = x - x.mean(-1, keepdims=True)
    return scale[None, None] * x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-6)


def attended(x_bth, w):
    """Return causal self-attention."""
    split = lambda a: a.reshape(*a.shape[:2], HEADS, -1)
    q, k, v = (split(x_bth @ w[name]) for name in ("q", "k", "v"))
    scores = jnp.einsum("btnd,bsnd->bnts", q, k) / math.sqrt(WIDTH // HEADS)
    scores = jnp.where(jnp.tri(x_bth.shape[1], dtype=bool)[None, None], scores, -1e9)
    mixed = jnp.einsum("bnts,bsnd->btnd", jax.nn.softmax(scores), v)
    return mixed.reshape(x_bth.shape) @ w["o"]


def fed_forward(x_bth, w):
    """Return the two-layer perceptron of a position."""
    return jax.nn.gelu(x_bth @ w["up"]) @ w["down"]


def pre_norm(x, w):
    """Return the layer of GPT: normalised on the way into each block."""
    x = x + attended(normalised(x, w["norm1"]), w)
    return x + fed_forward(normalised(x, w["norm2"]), w), None


def post_norm(x, w):
    """Return the layer of BERT: normalised on the way out of each block."""
    x = normalised(x + attended(x, w), w["norm1"])
    return normalised(x + fed_forward(x, w), w["norm2"]), None


def loss(layer, scan, params, batch):
    """Return the mean cross-entropy of the next characters."""
    x_bth = params["characters"][batch[:, :-1]] + params["positions"][None]
    x_bth, _ = scan(layer, x_bth, params["layers"])
    logits = jax.nn.log_softmax(x_bth @ params["characters"].T)
    return -jnp.take_along_axis(logits, batch[:, 1:, None], -1).mean()


def initial(layers: int):
    """Return parameters."""
    keys = iter(jax.random.split(jax.random.key(0), 8))
    sizes = dict.fromkeys("qkvo", (WIDTH, WIDTH)) | {"up": (WIDTH, 4 * WIDTH), "down": (4 * WIDTH, WIDTH)}
    weights = {name: normal(next(keys), layers, *size) for name, size in sizes.items()}
    scales = {norm: jnp.ones((layers, WIDTH)) for norm in ("norm1", "norm2")}
    tables = {"characters": (128, WIDTH), "positions": (TIME, WIDTH)}
    return {name: 0.1 * normal(next(keys), *size) for name, size in tables.items()} | {
        "layers": weights | scales
    }


def main() -> None:
    """Train both kinds and print their tables."""
    flags = arguments(__doc__)
    text, draws = characters(), np.random.default_rng(0)
    starts = draws.integers(len(text) - TIME, size=(flags.steps, BATCH))
    batches = [np.stack([text[start : start + TIME + 1] for start in row]) for row in starts]
    for layer in (pre_norm, post_norm):
        title = f"{layer.__name__} transformer, {flags.layers} layers"
        compare(title, functools.partial(loss, layer), initial(flags.layers), batches)


if __name__ == "__main__":
    main()
