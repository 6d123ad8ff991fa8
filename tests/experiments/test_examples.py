"""Each example trains equally by all ways, in less memory by plan."""

import importlib
import re
import sys

import pytest

from experiments.examples.comparison import WAYS

TABLES = {"orbits": 1, "images": 1, "transformer": 2}


@pytest.mark.parametrize(
    "name", ["orbits", *(pytest.param(name, marks=pytest.mark.slow) for name in ("images", "transformer"))]
)
def test_an_example_prints_a_row_for_each_way(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--steps", "2", "--layers", "6"])
    importlib.import_module(f"experiments.examples.{name}").main()
    printed = capsys.readouterr().out
    for table in re.split(r"^\n", printed, flags=re.MULTILINE)[2::2]:
        rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
        assert [row[0] for row in rows] == list(WAYS)
        plain, least = rows[0], rows[-1]
        assert float(least[1]) < float(plain[1]) / 2
        assert all(float(row[4]) < 1e-5 for row in rows)
    assert printed.count("plan, least memory") == TABLES[name]
