"""Splits that are missing are taken off the training split: always the same rows, each in one split."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bwsk_jax.training.data import held_out
from bwsk_jax.training.data.held_out import HELD_OUT_BYTES, ROWS_PER_BLOCK, SPLITS, corpus_of
from bwsk_jax.training.data.text import DatasetError, Text


def text_of(rows, size=100):
    return Text("--dataset d: its train split", "digest", size, lambda: (row for row in rows))


def split(count, missing, size=100):
    rows = [f"row {n}" for n in range(count)]
    there = {name: text_of([name]) for name in SPLITS if name not in missing}
    corpus = corpus_of("d", there | {"train": text_of(rows, size)})
    return {name: list(getattr(corpus, name).rows()) for name in SPLITS}, corpus, rows


@given(
    count=st.integers(ROWS_PER_BLOCK, 400), missing=st.sampled_from([("test",), ("validation",), SPLITS[1:]])
)
def test_each_row_is_in_one_split_and_its_order_stays(count, missing):
    splits, corpus, rows = split(count, missing)
    taken = {row for name in missing for row in splits[name]}
    assert splits["train"] == [row for row in rows if row not in taken]
    assert sum(len(splits[name]) for name in ("train", *missing)) == count
    for name in missing:
        assert splits[name] == sorted(splits[name], key=rows.index)
        assert count // ROWS_PER_BLOCK <= len(splits[name]) <= -(-count // ROWS_PER_BLOCK)
    for name in set(SPLITS[1:]) - set(missing):
        assert splits[name] == [name]
    (note,) = corpus.notes
    assert note.startswith(f"--dataset d has no {' and '.join(missing)} split") and "one row in 20" in note


def test_nothing_is_taken_where_nothing_is_missing():
    splits, corpus, rows = split(50, ())
    assert splits == {"train": rows, "validation": ["validation"], "test": ["test"]} and corpus.notes == ()


def test_a_test_split_that_is_there_does_not_move_the_validation_split():
    assert split(100, ("validation",))[0]["validation"] == split(100, SPLITS[1:])[0]["validation"]


def test_of_a_large_text_about_two_mebibytes_are_held_out():
    splits, corpus, _ = split(1000, SPLITS[1:], size=100 * HELD_OUT_BYTES)
    assert len(splits["validation"]) == len(splits["test"]) == 10
    assert corpus.validation.size == HELD_OUT_BYTES and "one row in 100" in corpus.notes[0]


def test_texts_of_other_splits_have_other_digests():
    digests = {
        getattr(split(50, missing)[1], name).digest for missing in (("test",), SPLITS[1:]) for name in SPLITS
    }
    assert len(digests) == 6  # of which one is that of the validation split that is there


def test_a_text_of_few_rows_is_refused(monkeypatch):
    monkeypatch.setattr(held_out, "SPLIT_SEED", 0)
    with pytest.raises(
        DatasetError, match="its training split has too few rows to spare one in 20: the validation"
    ):
        split(2, SPLITS[1:])[1].validation.check()
