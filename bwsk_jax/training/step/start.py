"""What a model from scratch knows before its first step.

Drawn parameters know nothing. From them, a small BERT first learns how frequent each token is, and then stays
there for long, because attention has to find out by itself which positions are neighbours. Both are known
before training: an informed start sets them, in parameters that BERT has anyway. The model's function is the
same, and training changes these parameters as it changes all others.
"""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

__all__ = ["informed", "sinusoids"]

LONGEST = 10_000.0


def informed(params: Any, counts_v: np.ndarray, scale: float) -> Any:
    """Return `params` of a BERT with a start that is informed by how often each token is in the text.

    The bias of the decoder becomes log((count(v) + 1) / (tokens + V)): with all else small, the model begins
    at the frequencies of the tokens. The embedding of positions becomes `sinusoids` of standard deviation
    `scale`.

    Args:
      params: as `bwsk_jax.bert.init_params` draws them.
      counts_v: how often each of V tokens occurs; those that are missing are 0.
      scale: standard deviation of the other embeddings, so that none drowns another.
    """
    head, embeddings = params["head"], params["embeddings"]
    missing = len(head["decoder"]["bias"]) - len(counts_v)
    smoothed_v = np.pad(counts_v, (0, missing)) + 1.0
    rows, width = embeddings["position"]["embedding"].shape
    positions = {"embedding": jnp.asarray(sinusoids(rows, width, scale), jnp.float32)}
    bias_v = jnp.asarray(np.log(smoothed_v / smoothed_v.sum()), jnp.float32)
    return params | {
        "head": head | {"decoder": {"bias": bias_v}},
        "embeddings": embeddings | {"position": positions},
    }


def sinusoids(rows: int, width: int, scale: float) -> np.ndarray:
    """Return [rows, width]: position t as sines and cosines of t / 10000 ** (i / (width / 2)).

    A product of two rows depends on how far they are apart, not on where. From Vaswani et al. 2017,
    "Attention is all you need" (arXiv:1706.03762), section 3.5, scaled to a standard deviation of about
    `scale`. An odd width has one cosine less.

    >>> table = sinusoids(64, 32, 0.1)
    >>> products = table @ table.T
    >>> bool(np.allclose(products[3, 5], products[40, 42]))
    True
    """
    frequencies = LONGEST ** (-np.arange(math.ceil(width / 2)) / (width / 2))
    angles = np.arange(rows)[:, None] * frequencies
    return math.sqrt(2) * scale * np.concatenate([np.sin(angles), np.cos(angles)], axis=1)[:, :width]
