"""Imports in training point one way and never in a circle; nothing below training imports it."""

import ast
import graphlib
import pathlib

import pytest

import bwsk_jax
import bwsk_jax.training

PACKAGE = pathlib.Path(bwsk_jax.__file__).parent
TRAINING = "bwsk_jax.training"
STOREYS = (
    {"flags", "command_line", "recipe", "progress", "device"},
    {"data"},
    {"step"},
    {"setup", "memory", "resolve"},
    {"loop"},
    {"report"},
    {"resume", "dry_run", "run"},
)
ROOMS = {"data", "step", "loop", "report"}
# What may import training: what starts it, and the inspector, which shows the model of a preset.
ABOVE = {"training", "train.py", "evaluate.py", "fill_mask.py", "inspection"}


def module(path):
    """The name under which the file at `path` is imported."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(path): path for path in PACKAGE.rglob("*.py")}


def imported(source):
    """The modules of the package that `source` imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where they point"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & MODULES.keys() or {node.module}
    return found & MODULES.keys()


GRAPH = {name: imported(path.read_text("utf-8")) for name, path in MODULES.items()}


def storey(name):
    """The place in `STOREYS` of a module of training."""
    first = name.removeprefix(f"{TRAINING}.").split(".")[0]
    return next(place for place, names in enumerate(STOREYS) if first in names)


def inside_training():
    """Module -> the modules of training that it imports, for all of training."""
    modules = {name for name in GRAPH if name.startswith(f"{TRAINING}.")}
    return {name: GRAPH[name] & modules for name in modules}


def test_imports_are_found_wherever_they_are_and_however_they_are_written():
    source = f"""
import {TRAINING}.recipe
def later():
    from {TRAINING} import setup, run
    from {TRAINING}.data.text import Corpus
    import os, bwsk_jax
"""
    expected = {f"{TRAINING}.{name}" for name in ("recipe", "setup", "run", "data.text")}
    assert imported(source) == {*expected, "bwsk_jax"}
    assert f"{TRAINING}.loop.fit" in GRAPH[f"{TRAINING}.run"]


def test_there_is_no_circle():
    graphlib.TopologicalSorter(inside_training()).prepare()


@pytest.mark.parametrize("name", sorted(inside_training()))
def test_no_module_imports_one_of_a_higher_storey(name):
    higher = {other for other in inside_training()[name] if storey(other) > storey(name)}
    assert not higher


def test_the_storeys_are_those_that_the_docstring_of_training_lists():
    listed = [
        set(line[:50].replace("/", "").replace(",", "").split())
        for line in (bwsk_jax.training.__doc__ or "").splitlines()
        if line.startswith("    ")
    ]
    assert listed == list(STOREYS)


def test_a_room_s_own_file_imports_nothing():
    """Whoever imports a module imports its room's own file as well."""
    for room in ROOMS:
        assert GRAPH[f"{TRAINING}.{room}"] == set()


def test_one_level_of_training_is_looked_over_at_a_glance():
    assert len(list((PACKAGE / "training").glob("*.py"))) <= 12
    assert {path.name for path in (PACKAGE / "training").iterdir() if path.is_dir()} - {
        "__pycache__"
    } == ROOMS


def test_nothing_below_training_imports_it():
    below = [name for name, path in MODULES.items() if path.relative_to(PACKAGE).parts[0] not in ABOVE]
    assert {"bwsk_jax.bert.model", "bwsk_jax.variants"} <= set(below)
    assert any(name.startswith("bwsk_jax.engine.") for name in below)
    for name in below:
        assert not any(other.startswith(TRAINING) for other in GRAPH[name]), name
