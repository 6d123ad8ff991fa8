"""Tokens do not depend on batches of lines, nor on whether the cache is there, damaged or forbidden."""

import os
from pathlib import Path

import numpy as np
import pytest

from bwsk_jax import bert
from bwsk_jax.training.data import tokens
from bwsk_jax.training.data.tokens import cache_folder, cached_tokens, tokenize

TEXT = "The dog sleeps.\n\n  \nA fox jumps over the dog.\r\nThe end"
LINES = [f"line {row} of the text" for row in range(50)]


@pytest.fixture(scope="module")
def tokenizer():
    return bert.train_tokenizer(TEXT.splitlines(), vocab_size=80)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "bwsk_jax" / "tokens"


@pytest.fixture
def count(monkeypatch):
    """How often a text was tokenised, as a list of labels."""
    labels = []

    def counting(tokenizer, text, label):
        labels.append(label)
        return tokenize(tokenizer, text, label)

    monkeypatch.setattr(tokens, "tokenize", counting)
    return labels


def test_a_text_is_tokenised_once_and_mapped(tokenizer, cache, count):
    expected = tokenize(tokenizer, TEXT)
    for _ in range(2):
        tokens = cached_tokens(tokenizer, TEXT, "train text")
        np.testing.assert_array_equal(tokens, expected)
        assert tokens.dtype == np.int32 and isinstance(tokens.base, np.memmap)
    assert count == ["train text"]
    assert cache_folder() == cache
    assert [file.suffix for file in cache.iterdir()] == [".npy"]


def test_text_and_tokenizer_decide(tokenizer, cache, count):
    other = bert.train_tokenizer(TEXT.splitlines(), vocab_size=60)
    for one in (tokenizer, other):
        for text in (TEXT, TEXT + " of it", ""):
            np.testing.assert_array_equal(cached_tokens(one, text), tokenize(one, text))
    assert len(count) == len(list(cache.iterdir())) == 6


@pytest.mark.parametrize("damage", ["truncate", "garbage", "empty", "floats"])
def test_a_damaged_file_is_replaced(tokenizer, cache, damage):
    expected = np.array(cached_tokens(tokenizer, TEXT))
    (file,) = cache.iterdir()
    if damage == "truncate":
        file.write_bytes(file.read_bytes()[:-4])
    elif damage == "floats":
        np.save(file, np.zeros(3))
    else:
        file.write_bytes(b"garbage" if damage == "garbage" else b"")
    np.testing.assert_array_equal(cached_tokens(tokenizer, TEXT), expected)
    np.testing.assert_array_equal(np.load(file), expected)


def test_without_room_the_tokens_stay_in_memory(tokenizer, cache, monkeypatch):
    def full(stream, tokens):
        stream.write(b"part")
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "save", full)
    np.testing.assert_array_equal(cached_tokens(tokenizer, TEXT), tokenize(tokenizer, TEXT))
    assert list(cache.iterdir()) == []


def test_where_no_folder_can_be_made_the_tokens_stay_in_memory(tokenizer, tmp_path):
    (tmp_path / "bwsk_jax").write_text("a file in the way")
    np.testing.assert_array_equal(cached_tokens(tokenizer, TEXT), tokenize(tokenizer, TEXT))


def test_the_home_folder_is_the_default(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == type(cache_folder())(os.path.expanduser("~/.cache/bwsk_jax/tokens"))


def test_without_a_home_the_tokens_stay_in_memory(tokenizer, monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    np.testing.assert_array_equal(cached_tokens(tokenizer, TEXT), tokenize(tokenizer, TEXT))


def test_batches_of_lines_do_not_show_in_the_tokens(monkeypatch):
    tokenizer = bert.train_tokenizer(LINES, vocab_size=80)
    whole = tokenize(tokenizer, "\n\n".join(LINES))
    monkeypatch.setattr(tokens, "LINES_PER_BATCH", 7)
    np.testing.assert_array_equal(tokenize(tokenizer, "\n\n".join(LINES)), whole)
    expected = [token for line in LINES for token in tokenizer(line, add_special_tokens=False)["input_ids"]]
    assert whole.tolist() == expected and whole.dtype == np.int32
    assert tokenize(tokenizer, " \n").shape == (0,)
