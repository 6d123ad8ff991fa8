"""Machines have the names that their users know, and what is missing to compile for one is said."""

import importlib.util

import jax
import pytest

from bwsk_jax.engine.program.platform import device
from bwsk_jax.engine.rules.devices import DEVICES
from bwsk_jax.targets import TargetError, find_target
from bwsk_jax.targets.machines import SLICES
from tests.support.compilers import on_tpu


def test_a_target_is_traced_for_as_its_own_kind_of_device():
    here = device()
    assert here == (jax.default_backend(), jax.devices()[0].device_kind)
    with find_target("v6e-16").tracing():
        assert device() == ("tpu", "TPU v6 lite")
    with find_target("h100").tracing(), find_target(None).tracing():
        assert device() == here


@pytest.mark.parametrize(
    "name, chips",
    [
        *[("v5e", 1), ("v5e-16", 16), ("v6e-256", 256), ("v5p", 1), ("v5p-8", 4), ("v5p-128", 64)],
        *[("h100", 1), ("h100-8", 8), ("a100-32", 32)],
    ],
)
def test_a_name_says_how_many_chips_there_are(name, chips):
    assert find_target(name).devices == chips
    assert find_target(name).device.name == name.split("-")[0]


@pytest.mark.parametrize("device", SLICES)
def test_the_size_of_a_name_is_its_number_of_chips_or_cores(device):
    cores = 2 if device == "v5p" else 1
    for size in SLICES[device]:
        assert find_target(f"{device}-{size}").devices * cores == size


@pytest.mark.parametrize(
    "name, message",
    [
        ("v5", r"there is no target 'v5': did you mean v5\w\?"),
        ("h10", "did you mean h100?"),
        ("abacus", "there are v5e, v5p, v6e, h100, a100, and v5e-16 and so on"),
        ("v5e-3", "v5e comes in 1, 4, 8, 16"),
        ("v5e-", "v5e comes in 1, 4, 8, 16"),
        ("v5p-4", "v5p comes in 2, 8, 16"),
        ("", "there are v5e"),
    ],
)
def test_another_name_is_refused_with_those_that_there_are(name, message):
    with pytest.raises(TargetError, match=message):
        find_target(name)


def test_a_target_is_taken_as_it_is():
    target = find_target("v5e")
    assert find_target(target) is target


def test_the_machine_here_has_its_devices_and_its_memory():
    here = find_target()
    assert here.devices == len(jax.devices()) and here.memory > 2**30
    assert list(here.mesh().devices.flat) == jax.devices()
    assert here.mesh((2, 2), ("a", "b")).shape == {"a": 2, "b": 2}


def test_a_mesh_is_no_larger_than_its_target():
    with pytest.raises(ValueError, match="a mesh of 16 devices does not fit on this machine, which has 8"):
        find_target().mesh((16,))


@pytest.mark.parametrize("name", DEVICES)
def test_figures_are_those_of_one_chip_and_have_a_source(name):
    device = DEVICES[name]
    assert device.source.startswith("https://")
    # Products are fastest; nothing is read as fast as it is computed with, or sent as fast as it is read.
    assert min(device.products.values()) > device.arithmetic > device.bandwidth > device.link > 0


@pytest.mark.parametrize(
    "name, wanted", [("v5e", "pip install libtpu"), ("h100", f"jax-cuda13-plugin=={jax.__version__}")]
)
def test_a_compiler_that_is_missing_is_named_with_the_command_that_installs_it(name, wanted, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TargetError, match=f"compiling for {name}-32 takes .*{wanted}"):
        find_target(f"{name}-32").mesh()  # whose devices no other test has described


@on_tpu
def test_an_axis_may_be_part_of_a_ring_of_chips():
    """A v5e of 256 chips is a torus of 16 x 16."""
    mesh = find_target("v5e-256").mesh((64, 4), ("data", "model"))
    assert mesh.shape == {"data": 64, "model": 4}
    assert len({device.id for device in mesh.devices.flat}) == 256
