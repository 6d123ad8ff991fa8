"""Functions are compiled for machines that are not there, and keep their shardings on the way.

Those for a TPU need libtpu; the last line of the tests in .ci/run has it.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from bwsk_jax.targets import DoesNotFitError, compile_for, find_target
from bwsk_jax.targets.program import CompiledProgram, UnreadableProgramError, aimed
from tests.support.compilers import on_tpu
from tests.support.parity import LEAST
from tests.support.scan_bodies import coupling

Shape = jax.ShapeDtypeStruct
X = Shape((64, 32), jnp.float32)


def layers(x, weights):
    return jax.lax.scan(lambda c, w: (jnp.tanh(c @ w), None), x, weights)[0].sum()


def stack(size, length, dtype=jnp.bfloat16):
    return Shape((size, size), dtype), Shape((length, size, size), dtype)


# --- here --------------------------------------------------------------------------------------------------


def test_sizes_are_those_of_the_compiler():
    jitted = jax.jit(lambda x: x @ x.T + 1, donate_argnums=())
    found, memory = compile_for(jitted, X), jitted.lower(X).compile().memory_analysis()
    assert found.argument_bytes == 64 * 32 * 4 and found.output_bytes == 64 * 64 * 4
    assert found.temporary_bytes == memory.temp_size_in_bytes
    assert found.peak_bytes == found.argument_bytes + found.output_bytes + found.temporary_bytes
    assert found.fits and found.cycles is None and found.collectives == ()
    assert str(found).startswith("this machine: peak 0 MiB") and "fits in" in str(found)


def test_a_donated_argument_counts_once():
    kept, donated = (compile_for(jax.jit(lambda x: x + 1, donate_argnums=d), X) for d in ((), 0))
    assert kept.peak_bytes - donated.peak_bytes == 64 * 32 * 4


def test_a_function_need_not_be_jitted_and_arguments_may_be_arrays_and_keys():
    args = np.ones((4, 4), np.float32), jnp.ones(4), jax.random.key(0), 2.0
    found = compile_for(lambda a, b, key, c: a @ b * c + jax.random.normal(key, (4,)), *args)
    assert found.output_bytes == 16


def test_weak_types_stay_weak():
    strong, weak = (Shape((), jnp.float32, weak_type=weak) for weak in (False, True))
    sizes = [compile_for(jnp.multiply, Shape((8,), jnp.bfloat16), b).output_bytes for b in (strong, weak)]
    assert sizes == [32, 16]


@pytest.mark.parametrize("abstract", [False, True])
def test_shardings_are_kept(abstract):
    types = (AxisType.Auto,)
    mesh = (
        AbstractMesh((4,), ("rows",), axis_types=types) if abstract else jax.make_mesh((4,), ("rows",), types)
    )
    x = Shape((64, 32), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("rows")))
    found = compile_for(lambda x, w: (x @ w).sum(), x, Shape((32, 8), jnp.float32))
    assert found.argument_bytes == (64 // 4 * 32 + 32 * 8) * 4
    assert [(c.kind, c.times, c.bytes) for c in found.collectives] == [("all-reduce", 1, 4)]


def test_meshes_of_two_sizes_are_refused():
    def on(count):
        mesh = AbstractMesh((count,), ("rows",), axis_types=(AxisType.Auto,))
        return Shape((8,), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("rows")))

    with pytest.raises(ValueError, match="meshes of different sizes"):
        compile_for(lambda a, b: a + b, on(2), on(4))


def test_a_function_without_arguments_runs_here():
    assert compile_for(lambda: 1.0).output_bytes == 4


def test_errors_of_the_function_are_its_own():
    with pytest.raises(TypeError, match="incompatible shapes"):
        compile_for(lambda x: jnp.add(x, jnp.ones((3, 7))), X)


class Unreadable:
    """A compiled program of a newer compiler."""

    def as_text(self):
        raise jax.errors.JaxRuntimeError("INTERNAL: an instruction should have 1 operands but sees 3")

    def memory_analysis(self):
        return jax.jit(lambda: 1.0).lower().compile().memory_analysis()


def test_a_program_that_cannot_be_read_still_has_its_memory():
    found = CompiledProgram(find_target("v5p"), Unreadable())
    assert found.cycles is None and found.peak_bytes == 4 and "fits in" in str(found)
    with pytest.raises(UnreadableProgramError, match=r"v5p: jax .* cannot read .* 1 operands but sees 3"):
        _ = found.collectives


# --- a TPU that is not here --------------------------------------------------------------------------------


@on_tpu
@pytest.mark.parametrize("name", ["v5e", "v5p", "v6e"])
def test_cycles_grow_with_the_layers(name):
    few, many = (compile_for(layers, *stack(1024, length), target=name) for length in (4, 40))
    assert 7 < many.cycles / few.cycles < 13
    assert many.argument_bytes - few.argument_bytes == 36 * 1024 * 1024 * 2
    assert "M cycles estimated; fits in" in str(many)


@on_tpu
def test_a_program_that_cannot_be_read_is_compiled_again_by_a_compiler_that_writes_it_down():
    target = find_target("v5e")
    lowered = jax.jit(layers).lower(*aimed(stack(1024, 4), target))
    found = CompiledProgram(target, Unreadable(), lowered)
    assert found.cycles == compile_for(layers, *stack(1024, 4), target=target).cycles > 0
    assert "while" in found.as_text()


@on_tpu
def test_nothing_aims_a_function_without_arrays():
    with pytest.raises(ValueError, match="no argument is an array, so that nothing aims the function at v5e"):
        compile_for(lambda x: x, 1.0, target="v5e")


@on_tpu
def test_what_does_not_fit_is_said():
    gradient = jax.grad(layers)
    with pytest.raises(DoesNotFitError, match=r"v5e: .*exceeds available HBM"):
        compile_for(gradient, *stack(8192, 200), target="v5e")


@on_tpu
@pytest.mark.parametrize("width", [512, 2048])  # with and without room for the gradients in fast memory
def test_the_gradients_of_a_reverse_scan_are_not_held_twice(width):
    """Making them NaN where the carry was lost takes no second copy of all layers' gradients."""

    def loss(weights, x):
        (a, b), _ = LEAST(coupling, (x, 2 * x), weights)
        return (a * b).sum()

    weights, x = Shape((8, width, width), jnp.float32), Shape((8, width), jnp.float32)
    found = compile_for(jax.grad(loss), weights, x, target="v5e")
    assert found.temporary_bytes < weights.size * 4 / 4


@on_tpu
def test_devices_that_are_not_here_meet():
    mesh = AbstractMesh((4, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    put = lambda *axes: NamedSharding(mesh, PartitionSpec(*axes))
    x, weights = stack(1024, 12)
    x = Shape(x.shape, x.dtype, sharding=put("data", None))
    weights = Shape(weights.shape, weights.dtype, sharding=put(None, None, "model"))
    found = compile_for(jax.grad(layers, 1), x, weights, target="v5e-16")
    assert found.argument_bytes == (1024 * 1024 // 4 + 12 * 1024 * 1024 // 4) * 2
    assert sum(c.times for c in found.collectives if c.kind == "all-reduce") >= 12
    with pytest.raises(ValueError, match="a mesh of 16 devices does not fit on v5e-8, which has 8"):
        compile_for(layers, x, weights, target="v5e-8")
