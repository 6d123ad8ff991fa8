"""How the parameters of BERT are split over the axes of a mesh, as data.

Along `model`, a layer is split as in Shoeybi et al. 2019, "Megatron-LM" (arXiv:1909.08053), section 3: a
matrix by its columns, and the one that reads its result by its rows, so that each pair needs one sum over the
devices. Along `fsdp`, each matrix is split by its last dimension that divides, and put together where it is
used, layer by layer (Rajbhandari et al. 2020, "ZeRO", arXiv:1910.02054, stage 3). A table of embeddings is
thus read without a message: each device looks up its part of each row. Vectors take little memory and would
need a message each: they lie whole on each device, and so does everything along other axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import PartitionSpec
from jax.tree_util import DictKey

__all__ = ["MODEL_SPLITS", "param_specs"]

MODEL_SPLITS = {
    **{(module, leaf): -1 for module in ("query", "key", "value", "up") for leaf in ("kernel", "bias")},
    **{(module, "kernel"): -2 for module in ("output", "down")},
}
"""By the names of module and leaf, the dimension that `model` splits; it does not split what is not here."""


def param_specs(tree: Any, axes: Mapping[str, int]) -> Any:
    """Return the `PartitionSpec` of each leaf of a tree on a mesh with axes of these sizes.

    The tree is that of the parameters, or one that holds such trees, as the state of an optimizer does. What
    is not in them is whole. The layers are never split from each other, for a scan goes through them.

    >>> kernel = jax.ShapeDtypeStruct((12, 768, 3072), "float32")
    >>> params = {"layers": {"feed_forward": {"up": {"kernel": kernel}}}}
    >>> specs = param_specs(params, {"fsdp": 4, "model": 2})
    >>> tuple(specs["layers"]["feed_forward"]["up"]["kernel"])
    (None, 'fsdp', 'model')
    """

    def spec(path: Any, leaf: Any) -> PartitionSpec:
        return _spec([key.key for key in path if isinstance(key, DictKey)], leaf.shape, axes)

    return jax.tree_util.tree_map_with_path(spec, tree)


def _spec(names: list[str], shape: tuple[int, ...], axes: Mapping[str, int]) -> PartitionSpec:
    split: list[str | None] = [None] * len(shape)
    by_model = MODEL_SPLITS.get((names[-2], names[-1])) if "model" in axes and len(names) > 1 else None
    if by_model is not None:
        split[by_model] = "model"
    own = range(1 if "layers" in names else 0, len(shape))  # without the axis of the layers
    if "fsdp" in axes and names and len(own) > 1:
        free = [k for k in own if split[k] is None and shape[k] % axes["fsdp"] == 0]
        if free:
            split[free[-1]] = "fsdp"
    return PartitionSpec(*split)
