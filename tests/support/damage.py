"""Plans damaged at random."""

import dataclasses

import hypothesis
import hypothesis.strategies as st


def damaged(good, data):
    """The plan without one of its saved values, without a step, or with two dependent steps swapped."""
    kinds = ["unsave"] * bool(good.saved) + ["drop"] * bool(good.steps) + ["swap"] * (len(good.steps) > 1)
    hypothesis.assume(kinds)
    kind = data.draw(st.sampled_from(kinds))
    if kind == "unsave":
        lost = data.draw(st.sampled_from(good.saved))
        return dataclasses.replace(good, saved=tuple(v for v in good.saved if v != lost))
    if kind == "drop":
        k = data.draw(st.integers(0, len(good.steps) - 1))
        return dataclasses.replace(good, steps=good.steps[:k] + good.steps[k + 1 :])
    feeds = [
        (i, j)
        for i, first in enumerate(good.steps)
        for j, second in enumerate(good.steps)
        if i < j and set(first.writes) & set(second.reads)
    ]
    hypothesis.assume(feeds)
    i, j = data.draw(st.sampled_from(feeds))
    steps = list(good.steps)
    steps[i], steps[j] = steps[j], steps[i]
    return dataclasses.replace(good, steps=tuple(steps))
