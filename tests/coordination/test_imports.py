"""Imports within the package point one way, and neither engine, classification nor targets know of it."""

import ast
import pathlib
import re

import pytest

import bwsk_jax
import bwsk_jax.coordination

ROOT = pathlib.Path(bwsk_jax.__file__).parent
PACKAGE = pathlib.Path(bwsk_jax.coordination.__file__).parent
ORDER = re.findall(r"^(\w+)\.py ", bwsk_jax.coordination.__doc__, re.MULTILINE)
OTHERS = [path for room in ("engine", "classification", "targets") for path in (ROOT / room).rglob("*.py")]


def imported(path):
    """The modules of this project that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where they point"
            names = [str(node.module)]
        else:
            continue
        yield from (name.split(".")[1:] for name in names if name.startswith("bwsk_jax."))


def test_the_docstring_lists_all_files():
    assert {path.stem for path in PACKAGE.glob("*.py")} == {"__init__", *ORDER}


@pytest.mark.parametrize("name", ORDER)
def test_a_file_imports_the_files_before_it(name):
    for room, *module in imported(PACKAGE / f"{name}.py"):
        before = room == "coordination" and module[0] in ORDER[: ORDER.index(name)]
        assert before or room in ("engine", "classification", "targets"), (room, module)


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_other_room_imports_this_one(path):
    assert not [name for name in imported(path) if name[0] == "coordination"]


@pytest.mark.parametrize("name", ORDER)
def test_few_files_know_mlir_and_one_function_the_extension(name):
    source = (PACKAGE / f"{name}.py").read_text()
    assert ("jaxlib.mlir" in source) <= (
        name in ("shardy", "shardings", "operands", "windows", "xla_import", "layouts")
    )
    assert ("_jax." in source.replace("bwsk_jax.", "")) <= (name == "xla_import")
    assert "jax._src" not in source
