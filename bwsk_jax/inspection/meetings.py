"""Where the devices of a training step of BERT meet, as `bwsk_jax.calm` predicts it."""

import jax
from jax.sharding import PartitionSpec

import bwsk_jax
from bwsk_jax import bert
from bwsk_jax.meshes import MeshError
from bwsk_jax.training.flags import Flags
from bwsk_jax.training.recipe import Recipe
from bwsk_jax.training.resolve import ASSUMED_MASK_ID, ASSUMED_STEPS
from bwsk_jax.training.setup import StepSetup
from bwsk_jax.variants import find_variant

__all__ = ["meetings_of_training"]


def meetings_of_training(
    config: bert.BertConfig, recipe: Recipe, mesh: str, precision: str = "float32"
) -> bwsk_jax.CalmReport:
    """Return the report on a conventional step from scratch, update included, on the devices of `mesh`.

    Raises `MeshError`.
    """
    setup = StepSetup(
        flags=Flags(mesh=mesh, precision=precision),
        variant=find_variant("scratch-conventional"),
        recipe=recipe,
        config=config,
        mask_id=ASSUMED_MASK_ID,
        pieces=config.vocab_size,
        unmasked=(),
        total_steps=ASSUMED_STEPS,
    )
    try:
        setup.placement.check_sizes(recipe.batch_size, config)
    except MeshError as fault:
        raise MeshError(f"--mesh {mesh} {fault}") from None
    step, args = setup.program()
    specs = jax.tree.map(lambda leaf: leaf.sharding.spec if leaf.sharding else PartitionSpec(), args)
    out_specs = specs[0], PartitionSpec()
    return bwsk_jax.calm(step, *args, mesh=setup.placement.mesh, in_specs=specs, out_specs=out_specs)
