"""Names become local paths, or an error that says what to give instead."""

import pytest

from bwsk_jax.training.data import sources
from bwsk_jax.training.data.sources import SourceError, model_folder, tokenizer_path, with_default_sources
from bwsk_jax.training.flags import Flags
from bwsk_jax.variants import find_variant

WIKITEXT = "Salesforce/wikitext:wikitext-2-raw-v1"
BERT = "google-bert/bert-base-uncased"


@pytest.mark.parametrize(
    ("variant", "given", "dataset", "tokenizer", "init"),
    [
        ("scratch-reversible", {}, "embedded", "trained", None),
        ("scratch-reversible", {"preset": "mini"}, WIKITEXT, BERT, None),
        ("scratch-reversible", {"preset": "base", "tokenizer": "t"}, WIKITEXT, "t", None),
        ("finetune-reversible", {}, "embedded", BERT, BERT),
        ("finetune-reversible", {"preset": "base", "init": "i", "dataset": "d"}, "d", "i", "i"),
        ("finetune-reversible", {"preset": "mini", "tokenizer": "t"}, WIKITEXT, "t", BERT),
    ],
)
def test_defaults(variant, given, dataset, tokenizer, init):
    options = with_default_sources(Flags(variant=variant, **given), find_variant(variant))
    assert (options.dataset, options.tokenizer, options.init) == (dataset, tokenizer, init)


def test_what_is_here_is_taken_as_it_is(tmp_path, monkeypatch):
    (tmp_path / "vocab.txt").write_text("[PAD]")
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert tokenizer_path("trained") is None
    assert str(tokenizer_path("vocab.txt")) == "vocab.txt"
    assert str(model_folder("owner/name")) == "owner/name"


def test_paths_that_are_not_there(tmp_path):
    with pytest.raises(SourceError, match=r"--init .*/absent: no such folder$"):
        model_folder(str(tmp_path / "absent"))
    with pytest.raises(SourceError, match=r"--tokenizer \./vocab.txt: no such folder or vocab\.txt$"):
        tokenizer_path("./vocab.txt")


def test_what_cannot_be_read(tmp_path, monkeypatch):
    def forbidden(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.iterdir", forbidden)
    with pytest.raises(SourceError, match=f"--init {tmp_path} cannot be read: Permission denied"):
        model_folder(str(tmp_path))


def test_a_pickle_on_the_hub_is_not_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "fetch", lambda name, files: tmp_path)
    with pytest.raises(SourceError, match=r"no safetensors weights.*convert it"):
        model_folder("someone/old-bert")
    (tmp_path / "model-00001-of-00002.safetensors").touch()
    assert model_folder("someone/old-bert") == tmp_path
