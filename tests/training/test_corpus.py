import dataclasses

import pytest

from bwsk_jax.training.corpus import DatasetError, embedded_corpus, folder_corpus, load_corpus


def test_embedded_splits_are_deterministic_disjoint_and_of_the_intended_sizes():
    corpus = embedded_corpus()
    assert corpus == embedded_corpus() == load_corpus("embedded")

    splits = dataclasses.asdict(corpus)
    lines = [line for text in splits.values() for line in text.splitlines()]
    assert len(lines) == len(set(lines)), "a paragraph is in two places"
    assert not any(line.startswith(("+-", "****")) for line in lines)

    total = sum(map(len, splits.values()))
    assert total > 200_000
    assert len(corpus.train) > 0.7 * total
    assert all(0.05 * total < len(splits[split]) <= 0.101 * total for split in ("validation", "test"))


def test_folder_is_read_as_it_is(tmp_path):
    for name in ("train", "valid", "test"):
        (tmp_path / f"{name}.txt").write_text(f"the {name} text €\n", "utf-8")
    assert folder_corpus(tmp_path).validation == "the valid text €\n"
    assert load_corpus(str(tmp_path)).test == "the test text €\n"


def test_everything_missing_is_named(tmp_path):
    with pytest.raises(DatasetError, match="no such folder"):
        folder_corpus(tmp_path / "absent")
    (tmp_path / "train.txt").write_text("text")
    with pytest.raises(DatasetError, match=r"valid\.txt, test\.txt missing"):
        folder_corpus(tmp_path)
