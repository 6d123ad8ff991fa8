"""diffrax's own reversible Heun, with each adjoint of its that goes through a solver backwards."""

from __future__ import annotations

import functools
from typing import Any

from experiments.reversible_nets.nets import SPAN, Net, Size, force
from experiments.reversible_nets.ways import Run

__all__ = ["diffrax_ways"]


def diffrax_ways() -> dict[str, Run]:
    """Return the ways of diffrax; raise `ImportError` if it is not installed, or not for this JAX."""
    import diffrax

    def run(adjoint: Any, net: Net, size: Size, params: Any, pair: Any) -> tuple[Any, Any]:
        term = diffrax.ODETerm(lambda time, y, params: force(params, y))
        step = SPAN / size.depth
        times = {"t0": 0.0, "t1": SPAN, "dt0": step, "max_steps": size.depth + 1}
        found = diffrax.diffeqsolve(
            term, diffrax.ReversibleHeun(), y0=pair[0], args=params, adjoint=adjoint, throw=False, **times
        )
        assert found.ys is not None  # the end of the interval is what a solution has by default
        return (found.ys[0], pair[1]), None

    adjoints = {
        "diffrax, checkpoints": diffrax.RecursiveCheckpointAdjoint(),
        "diffrax, backwards": diffrax.BacksolveAdjoint(solver=diffrax.ReversibleHeun()),
    }
    return {name: functools.partial(run, adjoint) for name, adjoint in adjoints.items()}
