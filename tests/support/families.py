"""Families of models as parameters of tests: one for every day, all of them in the full run."""

import pytest

from experiments.families import FAMILIES

EVERY_DAY = {"GRU (Equinox)"}


def family_parameters(names=tuple(FAMILIES)):
    """The names as parameters; those that are not for every day are slow."""
    return [pytest.param(name, marks=() if name in EVERY_DAY else pytest.mark.slow) for name in names]
