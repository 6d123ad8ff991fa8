"""Each net has the right way back by hand, and the table says what was compiled."""

import json
import sys

import jax
import numpy as np
import pytest

from experiments.distance import distance
from experiments.reversible_nets import __main__ as program
from experiments.reversible_nets.nets import NETS, Size
from experiments.reversible_nets.ways import HAND, OURS, PLAIN, WAYS, gradient, inputs

SIZE = Size(batch=2, time=16, width=8, depth=5)


@pytest.mark.parametrize("name", NETS)
def test_the_way_back_by_hand_is_that_of_plain_autodiff(name):
    net = NETS[name]
    args = inputs(net, SIZE)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: np.asarray(a, np.float64), args)
        hand, plain = (jax.jit(gradient(net, SIZE, WAYS[way]))(*wide) for way in (HAND, PLAIN))
    assert distance(hand, plain) < 1e-10
    assert jax.tree.structure(hand) == jax.tree.structure(plain)


@pytest.mark.parametrize(
    "name", ["leapfrog", *(pytest.param(n, marks=pytest.mark.slow) for n in NETS if n != "leapfrog")]
)
def test_a_plan_goes_back_without_being_told_how(name):
    net = NETS[name]
    args = inputs(net, SIZE)
    programs = {way: jax.jit(gradient(net, SIZE, WAYS[way])).lower(*args).compile() for way in (OURS, PLAIN)}
    temporaries = {way: p.memory_analysis().temp_size_in_bytes for way, p in programs.items()}
    assert temporaries[OURS] < temporaries[PLAIN] / 1.5
    assert distance(programs[OURS](*args), programs[PLAIN](*args)) < 1e-5


def test_a_distance_is_a_share_of_the_norm():
    truth = [np.array([3.0, 0.0]), np.array([4.0])]
    assert distance([np.array([3.0, 0.0]), np.array([9.0])], truth) == pytest.approx(1)
    assert distance(truth, truth) == 0


def test_the_program_writes_what_it_has_compiled(results, monkeypatch, capsys):
    flags = "--nets leapfrog --depths 5 --batch 2 --time 16 --width 8 --rounds 2"
    monkeypatch.setattr(sys, "argv", ["reversible_nets", *flags.split()])
    program.main()
    found = json.loads((results / "cpu" / "reversible_nets.json").read_text())["nets"]["leapfrog"]["5"]
    net = NETS["leapfrog"]
    compiled = jax.jit(gradient(net, SIZE, WAYS[HAND])).lower(*inputs(net, SIZE)).compile()
    assert found[HAND]["temporaries"] == compiled.memory_analysis().temp_size_in_bytes
    assert all(len(found[way]["seconds"]) == 2 and found[way]["error"] < 1e-5 for way in WAYS)
    assert "| leapfrog | 5 |" in capsys.readouterr().out
    assert len(list(results.glob("reversible_nets_cpu_*.svg"))) == 2


def test_an_unknown_net_is_a_mistake_of_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["reversible_nets", "--nets", "LSTM"])
    with pytest.raises(SystemExit, match="2"):
        program.main()
    assert capsys.readouterr().err.startswith("error: --nets LSTM: there are RevNet")
