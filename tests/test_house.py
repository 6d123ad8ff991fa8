"""The house is in order: files and functions have a readable size, and documents say what is so."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("bwsk_jax", "experiments", "scripts")
FILES = sorted(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))
LINES_OF_FILE, LINES_OF_FUNCTION = 400, 60
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def text_of(name):
    return (ROOT / name).read_text("utf-8")


def long_functions(source):
    """Functions and methods, also those inside others, that take more lines than they may."""
    functions = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    lines = {f"{f.name} at line {f.lineno}": f.end_lineno - f.lineno + 1 for f in functions}
    return {name: count for name, count in lines.items() if count > LINES_OF_FUNCTION}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_file_is_one_idea_and_a_function_fits_a_screen(file):
    source = file.read_text("utf-8")
    lines = source.count("\n")
    assert lines <= LINES_OF_FILE
    assert long_functions(source) == {}


def test_a_function_that_is_too_long_is_noticed():
    body = "\n".join(["    pass"] * LINES_OF_FUNCTION)
    assert long_functions(f"class C:\n  async def long():\n{body}\n") == {
        "long at line 2": LINES_OF_FUNCTION + 1
    }
    assert long_functions(f"def short():\n{body[9:]}\n") == {}


def test_the_files_are_found():
    names = {str(file.relative_to(ROOT)) for file in FILES}
    assert {"bwsk_jax/__init__.py", "experiments/families/__main__.py", "scripts/kill.py"} <= names


# --- documents ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_the_places_that_a_document_names_are_there(document):
    named = re.findall(
        r"(?<![\w/])(?:bwsk_jax|experiments|scripts|tests|\.github|\.ci)/[\w./]*\w", text_of(document)
    )
    assert named
    assert {place for place in named if not (ROOT / place).exists()} == set()


# --- versions ----------------------------------------------------------------------------------------------


def test_the_version_is_the_same_wherever_it_is_said():
    assert re.search(r"^version: (.*)$", text_of("CITATION.cff"), re.MULTILINE)[1] == PROJECT["version"]
    assert re.search(r"^## (\S*)", text_of("CHANGELOG.md"), re.MULTILINE)[1] == PROJECT["version"]


def test_every_supported_python_is_tested():
    supported = re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["classifiers"]))
    tested = re.search(r"python: \[(.*)\]", text_of(".github/workflows/ci.yml"))[1]
    assert re.findall(r"3\.\d+", tested) == supported
    assert PROJECT["requires-python"] == f">={supported[0]}"


def test_the_oldest_supported_jax_is_tested():
    (oldest,) = (name.removeprefix("jax>=") for name in PROJECT["dependencies"] if name.startswith("jax>="))
    assert f'jax: ["{oldest}", ""]' in text_of(".github/workflows/ci.yml")
    assert f"JAX {oldest} and newer" in text_of("README.md")


def test_the_license_and_the_types_are_part_of_the_package():
    assert PROJECT["license"] == "MIT" and text_of("LICENSE").startswith("MIT License")
    assert (ROOT / "bwsk_jax" / "py.typed").is_file()
