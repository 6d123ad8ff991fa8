"""Times of several programs on one machine, measured in turns, so that what else runs hits all alike."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping

__all__ = ["CLOCKS", "Times", "in_turns", "ratio"]

CLOCKS = {"seconds": time.perf_counter, "cpu_seconds": time.process_time}
"""Time on the wall, and that of all cores together as far as this process had them.

On a machine that others use too the second says more, as long as no thread waits by spinning.
"""
LEAST_ROUNDS = 3

Times = dict[str, list[float]]
"""For each clock the seconds of each round."""


def in_turns(
    runs: Mapping[str, Callable[[], object]],
    rounds: int,
    most: float = math.inf,
    each_round: Callable[[], object] = lambda: None,
) -> dict[str, Times]:
    """Return the times that each run took. A run returns when all of its work is done.

    The order of every second round is the reverse one. After `most` seconds no round begins any more, once
    there are three. `each_round` is called after each.
    """
    times: dict[str, Times] = {name: {clock: [] for clock in CLOCKS} for name in runs}
    start = time.perf_counter()
    for turn in range(rounds):
        if turn >= LEAST_ROUNDS and time.perf_counter() - start > most:
            break
        for name in list(runs) if turn % 2 == 0 else list(runs)[::-1]:
            before = {clock: read() for clock, read in CLOCKS.items()}
            runs[name]()
            for clock, read in CLOCKS.items():
                times[name][clock].append(read() - before[clock])
        each_round()
    return times


def ratio(times: list[float], others: list[float]) -> float:
    """Return the median over the rounds of the ratio within a round.

    >>> ratio([1.0, 8.0, 3.0], [2.0, 2.0, 3.0])
    1.0
    """
    return statistics.median(a / b for a, b in zip(times, others, strict=True))
