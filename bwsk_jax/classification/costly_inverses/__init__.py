"""The costly inverses: how to solve for operands at a price or on a condition that no gradient should pay.

A pseudo-inverse, or a factorisation multiplied out again, shows that an equation preserves information, which
is all that a report asks. A backward pass would rather replay. So the engine reads only its own table,
`INVERSES`, and a report reads `COSTLY_INVERSES` as well. Its entries are given what is known of the program's
values, of which the bounds are but a part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from bwsk_jax.classification.costly_inverses.contractions import OF_CONTRACTIONS
from bwsk_jax.classification.costly_inverses.elementwise import OF_ELEMENTWISE_FUNCTIONS
from bwsk_jax.classification.costly_inverses.linear_algebra import OF_LINEAR_ALGEBRA, SAME_RESULTS
from bwsk_jax.classification.costly_inverses.moves import OF_MOVES
from bwsk_jax.classification.values import ValueInfo
from bwsk_jax.engine.program.jaxprs import Equation
from bwsk_jax.engine.rules.inverses import Inverse

__all__ = ["COSTLY_INVERSES", "SAME_RESULTS"]

COSTLY_INVERSES: dict[Any, Callable[[Equation, ValueInfo], Iterable[Inverse]]] = {
    **OF_CONTRACTIONS,
    **OF_LINEAR_ALGEBRA,
    **OF_ELEMENTWISE_FUNCTIONS,
    **OF_MOVES,
}
"""Maps a primitive to a function that lists an equation's inverses, given what is known of the values."""
