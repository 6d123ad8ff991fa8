"""Imports within the package point one way, and the engine knows nothing of it."""

import ast
import pathlib
import re

import pytest

import bwsk_jax.classification
import bwsk_jax.engine

PACKAGE = pathlib.Path(bwsk_jax.classification.__file__).parent
ENGINE = pathlib.Path(bwsk_jax.engine.__file__).parent
ORDER = [
    *("report", "functions", "values", "costly_inverses", "erasure", "equations", "reference"),
    *("bodies", "phases", "modules", "classify"),
]


def imported(path):
    """The modules of this project that a file imports, as tuples of names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where they point"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (tuple(name.split(".")) for name in names if name.split(".")[0] == "bwsk_jax")


@pytest.mark.parametrize("name", ORDER)
def test_a_file_imports_the_engine_and_the_files_before_it(name):
    before = ORDER[: ORDER.index(name)]
    inside = PACKAGE / name
    for path in sorted(inside.glob("*.py")) if inside.is_dir() else [PACKAGE / f"{name}.py"]:
        for _, package, module, *_ in imported(path):
            near = module in before or (module == name and inside.is_dir())
            assert package == "engine" or (package == "classification" and near), module


def test_the_docstring_lists_all_files_in_that_order():
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert {path.stem for path in PACKAGE.glob("*.py")} | folders == {"__init__", *ORDER}
    listed = re.findall(r"^(\w+)(?:\.py|/) ", bwsk_jax.classification.__doc__, re.MULTILINE)
    assert listed == ORDER


@pytest.mark.parametrize("path", sorted(ENGINE.rglob("*.py")), ids=lambda p: str(p.relative_to(ENGINE)))
def test_the_engine_imports_no_classification(path):
    assert not [name for name in imported(path) if "classification" in name]
