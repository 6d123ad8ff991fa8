"""Imports point one way: the engine knows JAX and itself."""

import ast
import pathlib

import pytest

import bwsk_jax.engine

FILES = sorted(pathlib.Path(bwsk_jax.engine.__file__).parent.glob("*.py"))
ALLOWED = {"jax", "numpy", "scipy", "bwsk_jax.engine"} | set(__import__("sys").stdlib_module_names)


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where they point"
            yield node.module


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_the_engine_imports_nothing_of_the_package_outside_itself_and_no_flax(path):
    for name in imported(ast.parse(path.read_text())):
        allowed = name.split(".")[0] in ALLOWED or name.startswith("bwsk_jax.engine")
        assert allowed, f"{path.name} imports {name}"
