"""Which compilers are here."""

import importlib.util

import pytest

on_tpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="the compiler for TPUs is not here: pip install libtpu"
)
"""Marks a test that compiles for a TPU, which need not be here."""
