"""How far one gradient is from another."""

from typing import Any

import jax
import numpy as np

__all__ = ["distance"]


def distance(found: Any, truth: Any) -> float:
    """Return the norm of the difference of two gradients as a fraction of the norm of the second.

    >>> distance({"w": np.array([3.0, 4.0])}, {"w": np.array([3.0, 0.0])}) == 4 / 3
    True
    """
    both = zip(jax.tree.leaves(found), jax.tree.leaves(truth), strict=True)
    pairs = [(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in both]
    norm = lambda leaves: np.sqrt(sum(np.sum(leaf**2) for leaf in leaves))
    return float(norm(a - b for a, b in pairs) / norm(b for _, b in pairs))
