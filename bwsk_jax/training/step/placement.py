"""How the state of a step and its windows lie on several devices, which may be those of several processes.

`jax.jit` compiles one program for all of them, and puts in what they have to send each other. It computes
what it computes on one device, give or take the order of sums.

Masks and dropout too are the same on each mesh. They are drawn with `rbg` keys, whose bits XLA makes for the
whole array on each device, which then keeps its part. (Such keys are split and folded by `threefry2x32`. With
keys of that kind each device could make its part alone, and `jax_threefry_partitionable`, which JAX has on,
sees to it that the bits do not depend on the mesh either. But on one device they take longer.)

Splits are said of the state, the gradient, and the windows of what goes into the layers and comes out; the
compiler finds all others. Without the last, it would split hidden states as `fsdp` splits the parameters, and
devices would send each other activations, which are larger. Inside the layers nothing is said, so that their
plan is the one that they have on one device.
"""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from bwsk_jax import bert
from bwsk_jax.meshes import OF_WINDOWS, MeshError, parse_mesh
from bwsk_jax.targets import Target, find_target
from bwsk_jax.training.data.windows import Windows


@dataclass(frozen=True)
class Placement:
    """The mesh that `--mesh` asks for. Without axes there is none, and everything is left as it is."""

    axes: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str | None) -> "Placement":
        """Return the placement that the value of `--mesh` means. Raises `MeshError`."""
        return cls({} if text is None else parse_mesh(text))

    @property
    def devices(self) -> int:
        """How many there are."""
        return math.prod(self.axes.values())

    @property
    def shards(self) -> int:
        """In how many parts the windows of a step are split."""
        return math.prod(self.axes.get(name, 1) for name in OF_WINDOWS)

    def check_devices(self, target: Target) -> None:
        """Raise `MeshError` if the target has too few devices, or processes would have some left over."""
        if self.devices > target.devices:
            advice = f"--xla_force_host_platform_device_count={self.devices}"
            raise MeshError(
                f"takes {self.devices} devices, and {target.name} has {target.devices}"
                + (f": to simulate them on a CPU, set XLA_FLAGS={advice}" if target.is_here else "")
            )
        if target.is_here and jax.process_count() > 1 and self.devices != target.devices:
            raise MeshError(
                f"takes {self.devices} devices, and the {jax.process_count()} processes have "
                f"{target.devices}: a mesh has all of them"
            )

    def check_sizes(self, batch_size: int, config: bert.BertConfig) -> None:
        """Raise `MeshError` if what is to be split does not divide."""
        if batch_size % self.shards:
            names = " x ".join(name for name in OF_WINDOWS if name in self.axes)
            raise MeshError(
                f"splits a batch in {self.shards} ({names}), and --batch-size {batch_size} is no multiple"
            )
        for what, size in (("heads", config.num_attention_heads), ("units", config.intermediate_size)):
            if size % self.axes.get("model", 1):
                raise MeshError(
                    f"splits a layer in {self.axes['model']} (model), and its {size} {what} are no multiple"
                )

    def typed(self, tree: Any) -> Any:
        """Return a tree of shapes that holds parameters, with the sharding of each."""
        return self._map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
        )

    def constrained(self, tree: Any) -> Any:
        """Return a tree that holds parameters, being traced, split as parameters are."""
        return self._map(jax.lax.with_sharding_constraint, tree)

    def placed(self, tree: Any) -> Any:
        """Return a tree that holds parameters as arrays of JAX, each where it belongs."""
        if not self.axes:
            return jax.device_put(tree)

        def place(leaf, sharding):
            whole = np.asarray(leaf)
            return jax.make_array_from_callback(whole.shape, self._here(sharding), lambda index: whole[index])

        return self._map(place, tree)

    def made(self, function: Callable, *args: Any) -> Any:
        """Return the tree that `function` makes, which holds parameters, each where it belongs."""
        if not self.axes:
            return function(*args)
        splits = self._map(lambda _, sharding: self._here(sharding), jax.eval_shape(function, *args))
        return jax.jit(function, out_shardings=splits)(*args)

    def placed_windows(self, windows_wt: Windows, rows_ab: np.ndarray) -> np.ndarray | jax.Array:
        """Return the windows [A, B, T] of these numbers. A process reads those of its own devices only."""

        def read(index: Any) -> np.ndarray:
            rows = rows_ab[index[:2]]
            return windows_wt[rows.ravel()].reshape(*rows.shape, -1)

        if not self.axes:
            return read((slice(None), slice(None)))
        shape_abt, split = (*rows_ab.shape, windows_wt.seq_len), self._here(self._of_windows(axis=1))
        return jax.make_array_from_callback(shape_abt, split, read)

    def typed_windows(self, shape: tuple[int, ...], axis: int) -> jax.ShapeDtypeStruct:
        """Return the shape of token ids whose windows are along `axis`."""
        return jax.ShapeDtypeStruct(shape, jnp.int32, sharding=self._of_windows(axis) if self.axes else None)

    def constrained_windows(self, array: jax.Array, axis: int = 0) -> jax.Array:
        """Return an array, being traced, whose windows along `axis` are split."""
        if not self.axes:
            return array
        return jax.lax.with_sharding_constraint(array, self._of_windows(axis))

    def everywhere(self, array: jax.Array) -> jax.Array:
        """Return an array, being traced, that lies whole on each device, where its process can read it."""
        return (
            jax.lax.with_sharding_constraint(array, NamedSharding(self.mesh, PartitionSpec()))
            if self.axes
            else array
        )

    def scanned(self, scan: Callable) -> Callable:
        """Return `scan`, but with a carry whose windows are split before and after, and so all the way."""
        if not self.axes:
            return scan

        def split_scan(body, init, xs):
            carry, ys = scan(body, self.constrained_windows(init), xs)
            return self.constrained_windows(carry), ys

        return split_scan

    @property
    def mesh(self) -> AbstractMesh:
        """The mesh without devices: a program is compiled for those on which its arguments lie."""
        sizes, names = tuple(self.axes.values()), tuple(self.axes)
        return AbstractMesh(sizes, names, axis_types=(AxisType.Auto,) * len(names))

    def _here(self, sharding: NamedSharding) -> NamedSharding:
        """Return the same split on the devices of this machine, or of all processes."""
        return NamedSharding(self._devices, sharding.spec)

    @functools.cached_property
    def _devices(self) -> Mesh:
        return find_target().mesh(tuple(self.axes.values()), tuple(self.axes))

    def _of_windows(self, axis: int) -> NamedSharding:
        names = tuple(name for name in OF_WINDOWS if name in self.axes)
        return NamedSharding(self.mesh, PartitionSpec(*[None] * axis, names or None))

    def _map(self, function: Callable[[Any, NamedSharding], Any], tree: Any) -> Any:
        if not self.axes:
            return tree
        mesh, specs = self.mesh, bert.param_specs(tree, self.axes)
        return jax.tree.map(lambda leaf, spec: function(leaf, NamedSharding(mesh, spec)), tree, specs)


ONE_DEVICE = Placement()
