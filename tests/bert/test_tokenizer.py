"""Tokenizers: trained deterministically, saved without state, loaded from either form."""

import json
import subprocess
import sys

import pytest

from bwsk_jax.bert import TokenizerError, load_tokenizer, save_tokenizer, train_tokenizer
from tests.support.siblings import byte_level_bpe

TEXTS = [
    "The quick brown fox jumps over the lazy dog; the dog sleeps.",
    "A residual is a value that the backward pass reads and the forward pass computed.",
    "Reading, writing, and replaying: the reader reads what the writer wrote.",
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, vocab_size=120)


def test_special_tokens_come_first(tokenizer):
    assert tokenizer.convert_ids_to_tokens(range(5)) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert len(tokenizer) <= 120


def test_texts_survive(tokenizer):
    ids = tokenizer(TEXTS[0], add_special_tokens=False)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids).replace(" ", "") == TEXTS[0].lower().replace(" ", "")


def test_training_is_deterministic(tokenizer):
    assert train_tokenizer(TEXTS, vocab_size=120).get_vocab() == tokenizer.get_vocab()


def test_round_trip_through_transformers(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    tokenizer(TEXTS, truncation=True, padding="max_length", max_length=6)
    save_tokenizer(tokenizer, tmp_path / "variant")
    loaded = AutoTokenizer.from_pretrained(tmp_path, subfolder="variant")
    assert type(loaded) is type(tokenizer)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded.backend_tokenizer.truncation is None and loaded.backend_tokenizer.padding is None
    text = "Réading the FOX's residual ∂"
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert load_tokenizer(tmp_path / "variant").get_vocab() == tokenizer.get_vocab()


def test_vocabulary_file(tokenizer, tmp_path):
    pieces = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    for path in (tmp_path / "vocab.txt", tmp_path):
        loaded = load_tokenizer(path)
        assert loaded.get_vocab() == tokenizer.get_vocab()
        assert loaded(TEXTS[1])["input_ids"] == tokenizer(TEXTS[1])["input_ids"]


def test_a_byte_level_bpe_of_two_files(tmp_path):
    """As RoBERTa's was published: transformers learns from config.json what the files are."""
    bpe = byte_level_bpe()
    vocabulary, merges = (json.loads(bpe.backend_tokenizer.to_str())["model"][k] for k in ("vocab", "merges"))
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("\n".join(" ".join(pair) for pair in merges))
    with pytest.raises(TokenizerError, match="no tokenizer that transformers can load"):
        load_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "roberta"}')
    loaded = load_tokenizer(tmp_path)
    assert loaded.mask_token == "<mask>" and loaded.get_vocab() == bpe.get_vocab()
    assert loaded("what stays small")["input_ids"] == bpe("what stays small")["input_ids"]


def test_nothing_to_load(tmp_path):
    with pytest.raises(TokenizerError, match="cannot be read: No such file"):
        load_tokenizer(tmp_path / "absent")
    with pytest.raises(TokenizerError, match=r"none of tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "vocab.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TokenizerError, match="not UTF-8"):
        load_tokenizer(tmp_path)
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\nthe\n")
    with pytest.raises(TokenizerError, match=r"lacks \[CLS\], \[SEP\], \[MASK\]"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"model": {"type": "Surprise"}}'])
def test_a_damaged_tokenizer(tokenizer, tmp_path, text):
    save_tokenizer(tokenizer, tmp_path)
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(TokenizerError, match="no tokenizer that transformers can load"):
        load_tokenizer(tmp_path)


def test_nothing_to_learn_from():
    with pytest.raises(TokenizerError, match="one string"):
        train_tokenizer("a text")
    with pytest.raises(TokenizerError, match="0 texts"):
        train_tokenizer([])


def test_the_package_imports_no_heavy_library():
    heavy = {"transformers", "tokenizers", "torch"}
    code = f"import sys, bwsk_jax.bert; print({heavy} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"
