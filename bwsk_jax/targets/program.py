"""`compile_for`: what the compiler of a target makes of a function."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bwsk_jax.errors import UserError
from bwsk_jax.targets.hlo import Collective, collectives, estimated_cycles
from bwsk_jax.targets.machines import Target, compiler_of, find_target

__all__ = [
    "CompiledProgram",
    "DoesNotFitError",
    "UnreadableProgramError",
    "aimed",
    "compile_for",
    "compile_lowered",
]


DUMPED = "*.after_codegen.txt"
"""The file in which the compiler for TPUs writes a program with its estimates."""


class DoesNotFitError(UserError):
    """The compiler gave up, because the program takes more memory than the target has."""


class UnreadableProgramError(UserError):
    """The compiler's program has something in it that this version of JAX cannot read."""


@dataclasses.dataclass(frozen=True)
class CompiledProgram:
    """A function compiled for a target. Sizes are in bytes on one device."""

    target: Target
    compiled: jax.stages.Compiled
    """As `jax.stages.Lowered.compile` returns it; it runs only on the machine here."""
    lowered: jax.stages.Lowered | None = dataclasses.field(default=None, repr=False)
    """What was compiled, where it is to be compiled again if the program cannot be read."""

    @property
    def argument_bytes(self) -> int:
        """Of the arguments."""
        return self._memory.argument_size_in_bytes

    @property
    def output_bytes(self) -> int:
        """Of the results, those in place of donated arguments included."""
        return self._memory.output_size_in_bytes

    @property
    def temporary_bytes(self) -> int:
        """Of what is in memory in between."""
        return self._memory.temp_size_in_bytes

    @property
    def peak_bytes(self) -> int:
        """Arguments, results and temporaries, less the results that take the place of donated arguments."""
        sizes = self.argument_bytes + self.output_bytes + self.temporary_bytes
        return sizes - self._memory.alias_size_in_bytes

    @property
    def fits(self) -> bool:
        """Whether the peak is within the memory of the target."""
        return self.peak_bytes <= self.target.memory

    @functools.cached_property
    def cycles(self) -> int | None:
        """How long the compiler thinks that a run takes. It is no measurement.

        None if it does not say, or says so in a program that this version of JAX cannot read.
        """
        try:
            return estimated_cycles(self.as_text())
        except UnreadableProgramError:
            return None

    @functools.cached_property
    def collectives(self) -> tuple[Collective, ...]:
        """Where devices meet. Raises `UnreadableProgramError` if this JAX cannot read the program."""
        return collectives(self.as_text())

    def as_text(self) -> str:
        """The compiler's program, in XLA's words. Raises `UnreadableProgramError`."""
        return self._text

    @functools.cached_property
    def _text(self) -> str:
        try:
            return self.compiled.as_text() or ""
        except jax.errors.JaxRuntimeError as error:
            if (text := self._dumped()) is not None:
                return text
            raise UnreadableProgramError(
                f"{self.target.name}: jax {jax.__version__} cannot read what its compiler made, only how "
                f"much memory that takes: {str(error).splitlines()[0]}"
            ) from error

    def _dumped(self) -> str | None:
        """What the compiler itself writes when it compiles once more, None if it writes nothing."""
        if self.lowered is None:
            return None
        with tempfile.TemporaryDirectory() as folder, compiler_of(self.target):
            self.lowered.compile({"xla_dump_to": folder, "xla_dump_hlo_as_text": True})
            return next((file.read_text("utf-8") for file in Path(folder).glob(DUMPED)), None)

    @property
    def _memory(self) -> Any:
        return self.compiled.memory_analysis()

    def __str__(self) -> str:
        cycles = "" if self.cycles is None else f", {self.cycles / 1e6:,.1f} M cycles estimated"
        try:
            meetings = sum(c.times for c in self.collectives)
        except UnreadableProgramError:
            meetings = 0
        meet = f", {meetings} collectives" if meetings else ""
        within = f"{'fits' if self.fits else 'does not fit'} in {self.target.memory / 2**30:.1f} GiB"
        peak, temporaries = (size / 2**20 for size in (self.peak_bytes, self.temporary_bytes))
        return (
            f"{self.target.name}: peak {peak:,.0f} MiB, {temporaries:,.0f} temporary{cycles}{meet}; {within}"
        )


def compile_for(function: Callable, *args: Any, target: str | Target | None = None) -> CompiledProgram:
    """Compile a function for a machine, which need not be there, and say what it would take.

    Args:
      function: jitted, or to be jitted.
      *args: pytrees of arrays or `jax.ShapeDtypeStruct`s. Those with a `NamedSharding` keep its axes, on the
        target's devices in place of its own. The others lie whole on each device of that mesh, or on one
        device; on this machine `jit` decides.
      target: a name (v5e, v5p, v6e, h100, a100, v5e-16 and the like), a `Target`, or None for this machine.

    A function that names devices itself, in `in_shardings` or inside, has to name the target's, which
    `find_target(name).mesh(...)` has.

    Raises:
      TargetError: no such target, or its compiler is not installed; the message says how to install it.
      DoesNotFitError: the compiler gave up for want of memory.
      ValueError: the arguments lie on meshes of different devices, or on more than the target has.

    >>> import jax, jax.numpy as jnp
    >>> from bwsk_jax import targets
    >>> found = targets.compile_for(lambda x: jnp.sin(x) @ x, jax.ShapeDtypeStruct((256, 256), jnp.float32))
    >>> found.argument_bytes, found.fits, found.collectives
    (262144, True, ())
    """
    aim = find_target(target)
    jitted: Any = function if hasattr(function, "lower") else jax.jit(function)
    with aim.tracing():
        lowered = jitted.lower(*aimed(args, aim))
    return compile_lowered(lowered, aim)


def compile_lowered(lowered: jax.stages.Lowered, target: Target) -> CompiledProgram:
    """Compile what was lowered for arguments that are `aimed` at the target. Raises `DoesNotFitError`."""
    try:
        with compiler_of(target):
            return CompiledProgram(target, lowered.compile(), lowered)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = str(error).splitlines()[0].removeprefix("RESOURCE_EXHAUSTED: ")
        raise DoesNotFitError(f"{target.name}: {reason}") from None


def aimed(args: Any, target: Target) -> Any:
    """The arguments as shapes that lie on the devices of the target, which alone aims `jit` at it.

    Raises `TargetError` and `ValueError` as `compile_for` does.
    """
    meshes = {mesh for leaf in jax.tree.leaves(args) if (mesh := _mesh_of(leaf)) is not None}
    if len({mesh.size for mesh in meshes}) > 1:
        raise ValueError(f"the arguments lie on meshes of different sizes: {meshes}")
    on_target = {mesh: _moved(mesh, target) for mesh in meshes}
    whole = None if target.is_here else next(iter(on_target.values()), None) or target.mesh((1,))
    if not target.is_here and not any(map(_is_array, jax.tree.leaves(args))):
        raise ValueError(f"no argument is an array, so that nothing aims the function at {target.name}")

    def moved(leaf: Any) -> Any:
        mesh = on_target.get(_mesh_of(leaf), whole)
        if mesh is None or not _is_array(leaf):
            return leaf
        spec = PartitionSpec() if _mesh_of(leaf) is None else leaf.sharding.spec
        sharding = NamedSharding(mesh, spec)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding, weak_type=_is_weak(leaf))

    return jax.tree.map(moved, args)


def _mesh_of(leaf: Any) -> Any:
    sharding = getattr(leaf, "sharding", None)
    return sharding.mesh if isinstance(sharding, NamedSharding) else None


def _moved(mesh: Any, target: Target) -> Mesh:
    """The same mesh, concrete or abstract, on the devices of the target."""
    moved = target.mesh(mesh.axis_sizes, mesh.axis_names)
    return Mesh(moved.devices, mesh.axis_names, axis_types=mesh.axis_types)


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def _is_weak(leaf: Any) -> bool:
    return bool(getattr(leaf, "weak_type", False))
