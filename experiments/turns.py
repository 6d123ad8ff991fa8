"""Times of several programs on one machine, measured in turns, so that what else runs hits all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

__all__ = ["in_turns", "ratio"]


def in_turns(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds that each run took in each round. A run returns when all of its work is done.

    The order of every second round is the reverse one.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds):
        for name in list(runs) if turn % 2 == 0 else list(runs)[::-1]:
            start = time.perf_counter()
            runs[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(times: list[float], others: list[float]) -> float:
    """Return the median over the rounds of the ratio within a round.

    >>> ratio([1.0, 8.0, 3.0], [2.0, 2.0, 3.0])
    1.0
    """
    return statistics.median(a / b for a, b in zip(times, others, strict=True))
