"""Are predictions compared with compiled programs, and do estimates come from predicted bytes?"""

import json
import sys

import pytest

from experiments.coordination import __main__ as coordination
from experiments.coordination import paper


def test_a_family_is_predicted_compiled_and_proved(results, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["coordination", "--families", "momentum", "--splits", "data", "fsdp"])
    coordination.main()
    (file,) = results.rglob("coordination.json")
    found = json.loads(file.read_text())["programs"]
    assert set(found) == {"momentum, data", "momentum, fsdp"}
    for program in found.values():
        assert program["predicted"] == program["compiled"] == program["agreeing"] > 0
        assert program["needed but not predicted"] == 0
    assert "2 of 2 programs meet as predicted; 0 differences have no reason" in capsys.readouterr().out


def test_a_name_that_there_is_not_is_a_mistake(results, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["coordination", "--splits", "rows"])
    with pytest.raises(SystemExit) as stopped:
        coordination.main()
    assert stopped.value.code == 2
    assert "--splits rows: there are data; fsdp; sequence" in capsys.readouterr().err


def test_on_paper_data_parallelism_sends_each_gradient_once_and_that_of_the_words_twice():
    found = paper.estimate("BERT-base", "data", 64, "v5p")
    layers, words, parameters = 85_054_464, 30_522 * 768, 109_514_298
    size = 2 * layers + 4 * (parameters - layers) + 4 * words  # in bfloat16; in float32; the words twice
    assert found["sent"] == pytest.approx(2 * 63 / 64 * size, rel=0.01)
    assert found["fits"] and found["meetings in a row"] == 1
    (_, row) = paper.rows({"BERT-base, data, 64": found})
    assert row[0] == "BERT-base, data, 64" and row[-1] == "all-reduce over data (100%)"
