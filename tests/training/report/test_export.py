"""The folder above the variants loads as the best of them, and only links of this program are replaced."""

import os
import shutil

import pytest

from bwsk_jax.train import main
from bwsk_jax.training.report.export import best_variant, is_own, link_best
from tests.support.runs import FLAGS, results

MODEL = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}


def links(root):
    return {place.name: os.readlink(place) for place in root.iterdir() if place.is_symlink()}


def best_of(root):
    runs = {f"scratch-{m}": results(root, f"scratch-{m}") for m in ("conventional", "analyzed", "reversible")}
    return min(runs, key=lambda name: runs[name]["final_val_metric"])


def test_the_root_is_loaded_as_the_best_variant(finished, tmp_path):
    pytest.importorskip("torch")
    from transformers import pipeline

    root = shutil.copytree(finished, tmp_path / "out", symlinks=True)
    assert link_best(root, results(root, "finetune-reversible")) == "finetune-reversible"
    assert links(root).keys() == links(finished).keys() == MODEL
    fill = lambda place: pipeline("fill-mask", str(place), device="cpu")("memory stays [MASK]")
    assert fill(root) == fill(root / "finetune-reversible") != fill(root / "scratch-reversible")


def test_only_variants_with_the_same_text_and_tokenizer_are_compared(finished):
    assert best_variant(finished, results(finished, "finetune-reversible")) == "finetune-reversible"
    assert best_variant(finished, results(finished, "scratch-reversible")) == best_of(finished)
    other = results(finished, "scratch-reversible") | {"metric_name": "exact_pseudo_perplexity"}
    assert best_variant(finished, other) is None


def test_links_follow_the_best_and_go_with_it(finished, tmp_path):
    root = shutil.copytree(finished, tmp_path / "out", symlinks=True)
    latest = results(root, "scratch-reversible")
    (root / best_of(finished) / "vocab.txt").write_text("")
    assert link_best(root, latest) == best_of(finished)
    assert links(root) == {name: f"{best_of(finished)}/{name}" for name in {*MODEL, "vocab.txt"}}
    for variant in ("scratch-conventional", "scratch-analyzed", "scratch-reversible"):
        (root / variant / "training_results.json").unlink()
    assert link_best(root, latest) is None and links(root) == {}


def test_a_copy_of_the_links_becomes_links_again(finished, text_folder, tmp_path):
    root = shutil.copytree(finished, tmp_path / "out")
    assert links(root) == {} and all(is_own(root / name) for name in MODEL)
    main(["--variant", "scratch-analyzed", "--dataset", text_folder, "--out", str(root), *FLAGS])
    assert links(root) == {name: f"{best_of(finished)}/{name}" for name in MODEL}


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "modules.json"])
def test_somebody_else_s_model_is_refused_and_kept(text_folder, tmp_path, capsys, name):
    (tmp_path / name).write_text("{}")
    with pytest.raises(SystemExit) as ended:
        main(["--variant", "scratch-analyzed", "--dataset", text_folder, "--out", str(tmp_path), *FLAGS])
    assert ended.value.code == 2 and (tmp_path / name).read_text() == "{}"
    (line,) = capsys.readouterr().err.splitlines()
    assert f"its {name} was not written by this program and would be replaced: give another --out" in line


def test_a_link_elsewhere_is_somebody_else_s(tmp_path):
    (tmp_path / "config.json").symlink_to("elsewhere/config.json")
    (tmp_path / "model.safetensors").symlink_to("scratch-reversible/model.safetensors")
    assert not is_own(tmp_path / "config.json") and is_own(tmp_path / "model.safetensors")


def test_without_links_only_the_subfolders_load(finished, tmp_path, capsys, monkeypatch):
    root = shutil.copytree(finished / "scratch-analyzed", tmp_path / "out" / "scratch-analyzed").parent
    monkeypatch.setattr("pathlib.Path.symlink_to", lambda *_: os.symlink("a", "/proc/a"))
    assert link_best(root, results(root, "scratch-analyzed")) is None
    assert "cannot be loaded, only its subfolders: no links there" in capsys.readouterr().err
