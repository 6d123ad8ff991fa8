"""Which arguments of a call are traced, and which are part of the function that is traced.

Arrays and numbers are traced. Anything else in the arguments, such as an activation function that a module
holds, is taken as it is, and so is what the user calls static. For other such values a function is traced
anew.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

__all__ = ["Layout", "StaticArguments", "split_arguments", "tracing_explained"]

_NUMBERS = (bool, int, float, complex)
_MORE, _MORE_NAMED = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD


@dataclasses.dataclass(frozen=True)
class _Static:
    """A leaf that is not traced, equal to another where its value is, and its type: 1 is not True or 1.0."""

    value: Any
    kind: type = dataclasses.field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "kind", type(self.value))


@dataclasses.dataclass(frozen=True)
class StaticArguments:
    """Positions and names of the arguments that are static, each argument under both."""

    positions: frozenset[int] = frozenset()
    names: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls, fun: Callable, argnums: int | Sequence[int], argnames: str | Sequence[str]
    ) -> StaticArguments:
        """As `jax.jit` understands them; a negative position counts from the last parameter."""
        positions = {argnums} if isinstance(argnums, int) else set(argnums)
        names = {argnames} if isinstance(argnames, str) else set(argnames)
        if not positions and not names:
            return cls()
        signature = inspect.signature(fun).parameters
        kinds = {name: parameter.kind for name, parameter in signature.items()}
        named = [name for name, kind in kinds.items() if kind not in (_MORE, _MORE_NAMED)]
        unknown = sorted(names.difference(named))
        if unknown and _MORE_NAMED not in kinds.values():
            raise ValueError(f"static_argnames has {unknown[0]!r}, but the parameters are {', '.join(named)}")
        if _MORE in kinds.values():
            named = named[: list(kinds.values()).index(_MORE)]
        positions = {k + len(kinds) if k < 0 else k for k in positions}
        beyond = {k for k in positions if not 0 <= k < len(named)}
        if beyond and (min(beyond) < 0 or _MORE not in kinds.values()):
            raise ValueError(f"static_argnums has {min(beyond)}, but there are {len(named)} parameters")
        by_name = {named.index(name) for name in names.intersection(named)}
        by_position = {named[k] for k in positions - beyond}
        return cls(frozenset(positions | by_name), frozenset(names | by_position))


@dataclasses.dataclass(frozen=True)
class Layout:
    """The arguments of a call without what is traced."""

    tree: Any
    leaves: tuple[_Static | None, ...]
    """None for what is traced."""

    @property
    def is_all_traced(self) -> bool:
        """Whether nothing is static."""
        return not any(self.leaves)

    def joined(self, traced: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with these leaves in the places of those that are traced."""
        rest = iter(traced)
        leaves = [next(rest) if leaf is None else leaf.value for leaf in self.leaves]
        return jax.tree.unflatten(self.tree, leaves)


def split_arguments(
    args: Sequence[Any], kwargs: dict[str, Any], static: StaticArguments = StaticArguments()
) -> tuple[list[Any], Layout]:
    """The leaves that are traced, and all the rest.

    Raises:
      TypeError: what is not traced cannot be hashed, so that calls could not be told apart by it.
    """
    wrapped = (
        tuple(_Static(a) if k in static.positions else a for k, a in enumerate(args)),
        {name: _Static(a) if name in static.names else a for name, a in kwargs.items()},
    )
    leaves, tree = jax.tree.flatten(wrapped)
    fixed = tuple(None if _is_traced(a) else a if isinstance(a, _Static) else _Static(a) for a in leaves)
    for leaf in filter(None, fixed):
        try:
            hash(leaf)
        except TypeError:
            raise TypeError(f"a static argument must be hashable, got {type(leaf.value).__name__}") from None
    return [a for a, leaf in zip(leaves, fixed, strict=True) if leaf is None], Layout(tree, fixed)


def _is_traced(leaf: Any) -> bool:
    is_array = hasattr(leaf, "shape") and hasattr(leaf, "dtype")
    return is_array or hasattr(leaf, "__jax_array__") or isinstance(leaf, _NUMBERS)


@contextlib.contextmanager
def tracing_explained(name: str) -> Iterator[None]:
    """Add to an error about a value that a function needs while it is traced how it can have it."""
    try:
        yield
    except jax.errors.ConcretizationTypeError as error:
        error.add_note(
            f"{name} traces the numbers among the arguments. Name those that the function decides by, such "
            "as train=True, in static_argnums or static_argnames."
        )
        raise
