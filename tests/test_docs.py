"""What the README and the pages of docs show works as it is shown: snippets run, commands are understood."""

import contextlib
import functools
import importlib.util
import io
import json
import re
import shlex
import tomllib
from pathlib import Path

import jax
import numpy as np
import pytest
import tyro

import bwsk_jax
from bwsk_jax import bert, evaluate, fill_mask, usage
from bwsk_jax.inspection.options import Options
from bwsk_jax.targets import find_target
from bwsk_jax.training import command_line
from experiments.families import FAMILIES
from tests.support.bert_models import TINY

ROOT = Path(__file__).parents[1]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text("utf-8")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}
ALL = "\n".join(PAGES.values())
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]


def blocks(language, text=ALL):
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block for named, block in fenced if named == language]


def commands():
    """Each command that is shown, split into words, without comments."""
    inline = re.findall(r"`(python [^`\n]+)`", ALL)
    lines = [line for block in blocks("bash") for line in block.splitlines() if line.strip()]
    split = (shlex.split(part, comments=True) for line in (*lines, *inline) for part in line.split(" && "))
    return list(map(list, dict.fromkeys(map(tuple, split))))


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- the README --------------------------------------------------------------------------------------------


def test_the_readme_is_read_to_its_end():
    assert len(PAGES["README.md"].splitlines()) <= 150


def test_the_readme_links_to_what_there_is():
    links = re.findall(r"\]\(([^)]+)\)", PAGES["README.md"])
    assert links and all((ROOT / link).is_file() for link in links if "://" not in link)


# --- snippets ----------------------------------------------------------------------------------------------


def paste(page, change=lambda snippet: snippet):
    """Run the snippets of a page one after the other; return their variables and what they print."""
    variables, printed = {}, io.StringIO()
    with contextlib.redirect_stdout(printed):
        for snippet in blocks("python", PAGES[page]):
            exec(compile(change(snippet), page, "exec"), variables)
    return variables, printed.getvalue()


RULES = {"docs/rules.md"}
"""Shows rows of tables, which are no programs."""
CHECKED = {"README.md", "docs/training.md", "docs/inside.md"}
"""By a test of their own."""


@pytest.mark.parametrize(
    "page", [page for page, text in PAGES.items() if blocks("python", text) and page not in CHECKED | RULES]
)
def test_the_snippets_of_a_page_run(page):
    paste(page)


def test_the_snippets_on_your_own_model():
    found, printed = paste("README.md")
    plain = lambda params, x: (jax.lax.scan(found["layer"], x, params)[0] ** 2).mean()
    expected = jax.grad(plain)(found["params"], found["x"])
    np.testing.assert_allclose(found["gradient"], expected, rtol=1e-5, atol=1e-7)
    assert str(bwsk_jax.plan_scan(found["layer"], found["x"], found["params"])) in printed
    assert str(found["found"]) in printed and found["found"].best.program.peak_bytes <= 2 * 2**20
    assert len(printed.splitlines()) > 5


def test_the_snippets_with_a_rule_of_ones_own_and_with_devices():
    _, printed = paste("docs/inside.md")
    assert "1 S" in printed and "all-reduce" in printed


def test_the_snippet_that_loads_an_export(tmp_path, monkeypatch):
    """A run's export has the files that these functions write."""
    export = tmp_path / "runs" / "scratch-reversible"
    bert.save_pretrained(export, TINY, bert.init_params(TINY, jax.random.key(0)))
    bert.save_tokenizer(bert.train_tokenizer(["to be or not to be"], TINY.vocab_size), export)
    monkeypatch.chdir(tmp_path)
    found, _ = paste("docs/training.md")
    assert found["model"].config.hidden_size == TINY.hidden_size
    assert found["tokenizer"].tokenize("to be") == ["to", "be"]


def test_a_snippet_that_breaks_is_noticed():
    renamed = lambda snippet: snippet.replace("reversible_scan", "reversible_scam")
    with pytest.raises(AttributeError, match="reversible_scam"):
        paste("README.md", renamed)


# --- commands ----------------------------------------------------------------------------------------------


def understood(words):
    """Parse a command as the program that it names does, without running it; return what kind it is."""
    match words:
        case ["pip", "install", "-e", target]:
            assert re.fullmatch(r"\.\[(\w+)\]", target)[1] in EXTRAS
        case ["pytest", *flags]:
            assert flags in ([], ["-m", ""])
        case ["python", "-m", "bwsk_jax.train"]:
            pass
        case ["python", "-m", "bwsk_jax.train", "--help"]:
            with pytest.raises(SystemExit, match="0"):
                command_line.parse(["--help"])
        case ["python", "-m", "bwsk_jax.train", "--config", _, *flags]:
            command_line.parse(flags)
        case ["python", "-m", "bwsk_jax.train", *flags]:
            command_line.parse(flags)
        case ["python", "-m", "bwsk_jax.evaluate" | "bwsk_jax.fill_mask"]:
            pass
        case ["python", "-m", "bwsk_jax.evaluate", *flags]:
            usage.parse(evaluate.Options, flags)
        case ["python", "-m", "bwsk_jax.fill_mask", *flags]:
            usage.parse(fill_mask.Options, flags)
        case ["python", "-m", name] if name.startswith(("experiments.third_party", "experiments.examples.")):
            assert importlib.util.find_spec(name)
        case ["python", "-m", "experiments.families"]:
            assert importlib.util.find_spec("experiments.families.__main__")
        case [
            "python",
            "-m",
            "experiments.families.rivals"
            | "experiments.families.frontier"
            | "experiments.families.prices" as name,
            "--target",
            target,
        ]:
            assert importlib.util.find_spec(name) and find_target(target)
        case [
            "python",
            "-m",
            "experiments.families.rivals" | "experiments.families.frontier" as name,
            "--dtype",
            "float32",
            *only,
        ]:
            assert importlib.util.find_spec(name)
            assert not only or (only[0] == "--only" and only[1] in FAMILIES)
        case [
            "python",
            "-m",
            "experiments.scaling"
            | "experiments.six_variants"
            | "experiments.equivalence"
            | "experiments.fits"
            | "experiments.recipes" as name,
            *flags,
        ]:
            usage.parse(importlib.import_module(name).Options, flags)
        case [
            "python",
            "-m",
            "experiments.reversible_nets"
            | "experiments.against_pytorch"
            | "experiments.coordination" as name,
            *flags,
        ]:
            usage.parse(importlib.import_module(f"{name}.__main__").Options, flags)
        case ["python", "-m", "bwsk_jax.inspect", *flags]:
            usage.parse(Options, flags)
        case ["python", "scripts/figures.py", name, *flags]:
            assert name in script("figures").COMMANDS
            assert not flags or (flags[0] == "--target" and find_target(flags[1]))
        case ["python", "scripts/large_text.py", *flags]:
            only_parsed = functools.wraps(script("large_text").main)(lambda *given, **values: values)
            tyro.cli(only_parsed, args=flags)
        case ["python", "scripts/kill.py", *flags]:
            only_parsed = functools.wraps(script("kill").main)(lambda **values: values)
            tyro.cli(only_parsed, args=flags)
        case _:
            raise AssertionError(f"a page has a command that this test does not know: {words}")


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_a_command_is_understood(words):
    understood(words)


def test_every_kind_of_command_is_found():
    named = {word for words in commands() for word in words}
    assert {"bwsk_jax.train", "bwsk_jax.inspect", "scripts/figures.py", "scripts/kill.py"} <= named


@pytest.mark.parametrize(
    "command",
    [
        "python -m bwsk_jax.train --variant scratch-reversible --no-such-flag",
        "python -m bwsk_jax.inspect --preset base --difference",
    ],
)
def test_a_command_that_breaks_is_noticed(command):
    with pytest.raises(usage.UsageError):
        understood(shlex.split(command))


def test_the_inspector_counts_what_the_readme_says():
    (quoted,) = [block for block in blocks("") if block.startswith("strict taxonomy")]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        script("inspect_jaxpr").main(["--preset", "base"])
    in_one_line = lambda text: " ".join(text.split())
    for line in quoted.splitlines()[:2]:
        assert line in printed.getvalue()
    assert in_one_line(quoted.split("\n", 2)[2]) in in_one_line(printed.getvalue())


def test_the_dry_run_shows_numbers():
    (shown,) = map(json.loads, blocks("json"))
    assert shown["parameters"] == sum(
        leaf.size
        for leaf in jax.tree.leaves(
            jax.eval_shape(lambda: bert.init_params(bert.PRESETS["base"], jax.random.key(0)))
        )
    )
    assert shown["floor_mb"] < shown["compiled_peak_mb"]


def test_the_public_names_are_there():
    for name in set(re.findall(r"`bwsk_jax\.(\w+)", ALL)) - {"train", "bert", "evaluate", "fill_mask"}:
        assert hasattr(bwsk_jax, name)
