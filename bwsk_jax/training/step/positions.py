"""Positions that are known before training.

Where the embedding of positions is drawn at random, attention has to find out by itself which of them are
neighbours. Until it has, a small BERT stays at what the frequencies of the tokens alone give. As sinusoids
positions say so from the first step. They are trained like all other parameters, and the model's function is
the same.
"""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

__all__ = ["sinusoids", "with_sinusoids"]

LONGEST = 10_000.0


def with_sinusoids(params: Any, scale: float) -> Any:
    """Return `params` of a BERT, as `bwsk_jax.bert.init_params` draws them, with `sinusoids` for positions.

    `scale` is the standard deviation of the other embeddings, so that none drowns another.
    """
    embeddings = params["embeddings"]
    rows, width = embeddings["position"]["embedding"].shape
    positions = {"embedding": jnp.asarray(sinusoids(rows, width, scale), jnp.float32)}
    return params | {"embeddings": embeddings | {"position": positions}}


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
