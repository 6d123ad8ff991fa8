"""Imports point one way: the engine knows JAX and itself, and each of its rooms only those before it."""

import ast
import pathlib

import pytest

import bwsk_jax.engine

ENGINE = pathlib.Path(bwsk_jax.engine.__file__).parent
ROOMS = ["program", "rules", "plan", "execute"]
FILES = sorted(ENGINE.rglob("*.py"))
ALLOWED = {"jax", "numpy", "scipy"} | set(__import__("sys").stdlib_module_names)


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where they point"
            yield node.module


def within_the_engine(name):
    return name.removeprefix("bwsk_jax.engine.").split(".")[0] if name.startswith("bwsk_jax.engine") else None


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ENGINE)))
def test_a_file_imports_its_own_room_and_earlier_ones(path):
    own = path.relative_to(ENGINE).parts[0]
    seen = ROOMS[: ROOMS.index(own) + 1] if own in ROOMS else []
    for name in imported(ast.parse(path.read_text())):
        room = within_the_engine(name)
        assert (room in seen) if room else (name.split(".")[0] in ALLOWED), f"{path.name} imports {name}"


def test_all_files_stand_in_rooms():
    assert {path.relative_to(ENGINE).parts[0] for path in FILES} == {*ROOMS, "__init__.py"}
