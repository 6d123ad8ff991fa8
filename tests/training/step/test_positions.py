"""Positions of a model from scratch may start as sinusoids; all else is as it is drawn."""

import jax
import numpy as np
import pytest

from bwsk_jax import bert
from bwsk_jax.train import main
from bwsk_jax.training.step.positions import sinusoids, with_sinusoids
from tests.support import tiny
from tests.support.runs import FLAGS, results


def test_only_positions_differ_from_what_is_drawn():
    drawn = tiny.params()
    started = with_sinusoids(drawn, 0.06)
    assert jax.tree.map(np.shape, drawn) == jax.tree.map(np.shape, started)
    same = jax.tree.map(lambda a, b: bool((a == b).all()), drawn, started)
    others = {jax.tree_util.keystr(path) for path, equal in jax.tree.leaves_with_path(same) if not equal}
    assert others == {"['embeddings']['position']['embedding']"}


@pytest.mark.parametrize("width", [8, 9, 128])
def test_positions_have_the_scale_that_is_asked_for(width):
    table = sinusoids(512, width, 0.06)
    assert table.shape == (512, width)
    assert np.sqrt((table**2).mean()) == pytest.approx(0.06, rel=0.1)


@pytest.mark.parametrize("distance", [1, 5, 20])
def test_how_alike_two_positions_are_tells_how_far_they_are_apart(distance):
    table = sinusoids(128, 32, 1.0)
    products = np.sum(table[:-distance] * table[distance:], axis=1)
    assert np.ptp(products) < 1e-9 < table[0] @ table[0] - products[0]


@pytest.mark.slow
def test_a_run_starts_from_the_positions_that_its_flag_names(text_folder, tmp_path):
    learned = {}
    for kind in ("sinusoids", "drawn"):
        flags = ["--variant", "scratch-conventional", "--dataset", text_folder, "--positions", kind]
        main([*flags, "--out", str(tmp_path / kind), *FLAGS])
        assert results(tmp_path / kind, "scratch-conventional")["settings"]["positions"] == kind
        config, params = bert.load_pretrained(tmp_path / kind / "scratch-conventional")
        learned[kind] = np.asarray(params["embeddings"]["position"]["embedding"])
    begun = sinusoids(*learned["drawn"].shape, config.initializer_range)
    alike = {kind: np.corrcoef(table.ravel(), begun.ravel())[0, 1] for kind, table in learned.items()}
    assert alike["sinusoids"] > 0.9 > abs(alike["drawn"])
