"""A step on several simulated devices is the step on one, with less on each."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bwsk_jax
from bwsk_jax.coordination.compiled import compiled_collectives
from bwsk_jax.meshes import MeshError
from bwsk_jax.targets import find_target
from bwsk_jax.training.step.evaluation import make_window_loss
from bwsk_jax.training.step.optimizer import make_optimizer
from bwsk_jax.training.step.placement import ONE_DEVICE, Placement
from bwsk_jax.training.step.train_step import initial_state, make_train_step
from tests.support.tiny import CONFIG, MASK_ID, params, tokens

KEY = jax.random.key(7, impl="rbg")
OPTIMIZER = make_optimizer(1e-2, 20)
MESHES = ("data=8", "data=4,model=2", "fsdp=8")
SCANS = {"conventional": jax.lax.scan, "reversible": bwsk_jax.reversible_scan}


def placed_state(placement):
    return placement.made(lambda params: initial_state(params, OPTIMIZER), placement.placed(params()))


def compiled_step(placement, micro_batches=1, windows=8, **options):
    step = make_train_step(CONFIG, OPTIMIZER, MASK_ID, placement=placement, **options)
    shape_abt = (micro_batches, windows, 16)
    state = jax.eval_shape(lambda: initial_state(params(), OPTIMIZER))
    arguments = placement.typed(state), placement.typed_windows(shape_abt, axis=1)
    return bwsk_jax.compile_for(step, *arguments, KEY)


def losses(placement, steps, micro_batches=1, **options):
    """The losses of steps in float32 with dropout."""
    step, state, found = (
        compiled_step(placement, micro_batches, **options).compiled,
        placed_state(placement),
        [],
    )
    for seed in range(steps):
        state, loss = step(state, tokens(micro_batches, 8, 16, seed=seed), KEY)
        found.append(float(loss))
    return found


@functools.cache
def losses_of_one_device(steps, micro_batches, masking=None):
    return losses(ONE_DEVICE, steps, micro_batches, random_pieces=masking)


@pytest.mark.slow
@pytest.mark.parametrize("mode", SCANS)
@pytest.mark.parametrize("mesh", [*MESHES, "fsdp=2,data=2,model=2"])
def test_twenty_losses_are_those_of_one_device(mesh, mode):
    assert CONFIG.hidden_dropout_prob > 0 and CONFIG.attention_probs_dropout_prob > 0
    found = losses(Placement.parse(mesh), 20, scan=SCANS[mode])
    np.testing.assert_allclose(found, losses_of_one_device(20, 1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("mesh", ["data=4,model=2", pytest.param("fsdp=8", marks=pytest.mark.slow)])
def test_micro_batches_and_the_masks_of_bert_are_those_of_one_device(mesh):
    pieces = CONFIG.vocab_size
    found = losses(Placement.parse(mesh), 3, micro_batches=2, random_pieces=pieces)
    np.testing.assert_allclose(found, losses_of_one_device(3, 2, pieces), atol=1e-4, rtol=0)


def test_a_fully_sharded_state_stays_split_and_what_is_sent_is_parameters():
    placement, windows = Placement.parse("fsdp=8"), 128
    program = compiled_step(placement, windows=windows)
    state = placed_state(placement)
    given = jax.tree.map(lambda leaf: leaf.sharding, state)
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert program.argument_bytes < whole / 4  # a tiny model consists of vectors to a good part

    state, _ = program.compiled(state, tokens(1, windows, 16), KEY)
    same = jax.tree.map(lambda leaf, before: leaf.sharding.is_equivalent_to(before, leaf.ndim), state, given)
    assert all(jax.tree.leaves(same))

    hidden_bytes = windows * 16 * CONFIG.hidden_size * 4
    found = compiled_collectives(program, dict(placement.axes))
    assert found and max(each.bytes for each in found if each.kind == "all-gather") < hidden_bytes / 4


def test_the_mean_loss_of_windows_is_that_of_one_device():
    rows, positions = tokens(8, 16), np.tile([3, 9], (8, 1))
    expected = make_window_loss(CONFIG, MASK_ID)(params(), rows, positions)
    placement = Placement.parse("data=2,fsdp=2,model=2")
    window_loss = make_window_loss(CONFIG, MASK_ID, placement=placement)
    np.testing.assert_allclose(window_loss(placement.placed(params()), rows, positions), expected, rtol=1e-5)


@pytest.mark.parametrize("impl", ["rbg", "threefry2x32"])
def test_the_bits_of_a_key_do_not_depend_on_the_mesh(impl):
    """This is a property of JAX and XLA that masks and dropout rely on."""
    key, placement = jax.random.key(3, impl=impl), Placement.parse("data=8")

    def bits(key):
        return placement.constrained_windows(
            jax.random.bits(jax.random.fold_in(key, 1), (64, 33), jnp.uint32)
        )

    def bits_of_one(key):
        return jax.random.bits(jax.random.fold_in(key, 1), (64, 33), jnp.uint32)

    mesh = find_target().mesh((8,), ("data",))
    whole = jax.device_put(key, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
    split = jax.jit(bits)(whole)
    assert len(split.sharding.device_set) == 8 and not split.sharding.is_fully_replicated
    np.testing.assert_array_equal(split, jax.jit(bits_of_one)(key))


@pytest.mark.parametrize(
    ("mesh", "batch_size", "message"),
    [
        ("data=4", 6, r"splits a batch in 4 \(data\), and --batch-size 6 is no multiple"),
        ("data=2,fsdp=2", 6, r"splits a batch in 4 \(data x fsdp\)"),
        ("model=4", 3, r"splits a layer in 4 \(model\), and its 2 heads are no multiple"),
    ],
)
def test_what_does_not_divide_is_said(mesh, batch_size, message):
    with pytest.raises(MeshError, match=message):
        Placement.parse(mesh).check_sizes(batch_size, CONFIG)


def test_devices_that_are_missing_can_be_simulated():
    placement = Placement.parse("data=16")
    advice = "XLA_FLAGS=--xla_force_host_platform_device_count=16"
    with pytest.raises(MeshError, match=f"takes 16 devices, and this machine has 8: .*{advice}"):
        placement.check_devices(find_target())
    with pytest.raises(MeshError, match=r"takes 16 devices, and v5e-8 has 8$"):
        placement.check_devices(find_target("v5e-8"))
