"""The package has its public names without importing them, and type checkers see the same names."""

import ast
import importlib
import inspect
import subprocess
import sys

import pytest

import bwsk_jax

PLACES = bwsk_jax._PLACES


def test_type_checkers_see_each_name_at_its_place():
    tree = ast.parse(inspect.getsource(bwsk_jax))
    imported = {
        alias.asname: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    del imported[None]  # this file's own imports have no second name
    assert imported == PLACES


@pytest.mark.parametrize("name", PLACES)
def test_a_name_is_what_is_at_its_place(name):
    assert getattr(bwsk_jax, name) is getattr(importlib.import_module(PLACES[name]), name)
    assert name in dir(bwsk_jax)


@pytest.mark.parametrize("name", bwsk_jax._PACKAGES)
def test_packages_are_attributes_without_being_imported(name):
    code = f"import bwsk_jax; assert bwsk_jax.{name}.__name__ == 'bwsk_jax.{name}'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_other_names_are_no_attributes():
    with pytest.raises(AttributeError, match="no attribute 'reversibly'"):
        _ = bwsk_jax.reversibly


@pytest.mark.parametrize("statement", ["import bwsk_jax", "import bwsk_jax.train"])
def test_nothing_slow_is_imported_before_it_is_needed(statement):
    code = f"import sys; {statement}; assert not {{'jax', 'numpy', 'tyro'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
