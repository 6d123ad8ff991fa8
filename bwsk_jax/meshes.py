"""What `--mesh` may say: names and sizes of the axes along which devices share the work."""

import re

from bwsk_jax.errors import UserError

AXES = {
    "data": "the windows of a step",
    "fsdp": "the windows, and with them parameters, gradients and optimizer state",
    "model": "the matrices of each layer",
}
"""By the name of an axis, what the devices along it split among them."""
OF_WINDOWS = ("data", "fsdp")


class MeshError(UserError):
    """A mesh that cannot be: it is not written as one, or what is to be split does not divide."""


def parse_mesh(text: str) -> dict[str, int]:
    """Return the size of each axis, in the order in which `text` has them.

    Raises `MeshError`.

    >>> parse_mesh("data=4,model=2")
    {'data': 4, 'model': 2}
    """
    sizes: dict[str, int] = {}
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\w+)\s*=\s*([1-9]\d*)\s*", part)
        if found is None:
            raise MeshError(f"{part.strip()!r} is no axis: write it like data=8 or data=4,model=2")
        name, size = found.groups()
        if name not in AXES:
            raise MeshError(f"{name!r} is none of the axes {', '.join(AXES)}")
        if name in sizes:
            raise MeshError(f"{name} is given twice")
        sizes[name] = int(size)
    return sizes
