import dataclasses

import pytest

from bwsk_jax.training.data.corpus import load_corpus
from bwsk_jax.training.data.text import Corpus, DatasetError, embedded_corpus, folder_corpus


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


PARQUET_README = """---
configs:
- config_name: raw
  data_files:
  - {split: train, path: raw/train.parquet}
  - {split: validation, path: raw/validation.parquet}
  - {split: test, path: raw/test.parquet}
- config_name: short
  data_files:
  - {split: train, path: raw/train.parquet}
---
"""


@pytest.fixture
def layout(tmp_path):
    """A folder with two configurations over parquet files."""
    from datasets import Dataset

    folder = tmp_path / "layout"
    (folder / "raw").mkdir(parents=True)
    (folder / "README.md").write_text(PARQUET_README)
    for split in ("train", "validation", "test"):
        rows = [f"the {split} text", "", "€"]
        Dataset.from_dict({"text": rows}).to_parquet(folder / "raw" / f"{split}.parquet")
    return folder


def test_a_datasets_layout_is_read(layout):
    corpus = load_corpus(f"{layout}:raw")
    assert corpus == Corpus("the train text\n€", "the validation text\n€", "the test text\n€")


def test_edited_files_are_read_again(layout):
    from datasets import Dataset

    load_corpus(f"{layout}:raw")
    Dataset.from_dict({"text": ["another text"]}).to_parquet(layout / "raw" / "test.parquet")
    assert load_corpus(f"{layout}:raw").test == "another text"


def test_parquet_files_alone_are_a_layout(layout):
    (layout / "README.md").unlink()
    assert load_corpus(str(layout / "raw")).test == "the test text\n€"


@pytest.mark.parametrize(
    ("spoil", "config", "message"),
    [
        (lambda folder: None, "", r"Config name is missing|Please pick one"),
        (lambda folder: None, ":cooked", "'cooked' not found.*raw.*short"),
        (lambda folder: None, ":short", "no split validation, test; it has train"),
        (lambda folder: (folder / "raw" / "test.parquet").unlink(), ":raw", "test.parquet"),
        (lambda folder: (folder / "raw" / "test.parquet").write_bytes(b"PAR1 no"), ":raw", "Parquet|parquet"),
    ],
    ids=["no config", "unknown config", "missing splits", "missing file", "damaged file"],
)
def test_a_layout_that_cannot_be_read(layout, spoil, config, message):
    spoil(layout)
    with pytest.raises(DatasetError, match=f"^--dataset {layout}.*({message})"):
        load_corpus(f"{layout}{config}")


def test_a_layout_needs_a_text_column(layout):
    from datasets import Dataset

    for split in ("train", "validation", "test"):
        Dataset.from_dict({"words": ["a"]}).to_parquet(layout / "raw" / f"{split}.parquet")
    with pytest.raises(DatasetError, match="no column 'text'; it has words"):
        load_corpus(f"{layout}:raw")


@pytest.fixture
def texts(tmp_path):
    for name in ("train", "valid", "test"):
        (tmp_path / f"{name}.txt").write_text("some\ntext\n")
    return tmp_path


@pytest.mark.parametrize("text", ["", " \n\n"])
def test_an_empty_split_is_named(texts, text):
    (texts / "valid.txt").write_text(text)
    with pytest.raises(DatasetError, match="its validation split is empty"):
        load_corpus(str(texts))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a line\nné".encode("latin-1"), r"test\.txt is not UTF-8: byte 0xe9 in line 2; convert it"),
        ("a line".encode("utf-16"), r"test\.txt is not UTF-8: byte 0xff in line 1"),
    ],
)
def test_text_that_is_not_utf8_is_placed(texts, content, message):
    (texts / "test.txt").write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        load_corpus(str(texts))


def test_a_folder_that_cannot_be_entered(texts, monkeypatch):
    def forbidden(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.exists", forbidden)
    with pytest.raises(DatasetError, match=f"{texts} cannot be read: Permission denied"):
        load_corpus(str(texts))


def test_a_file_is_no_dataset(texts):
    with pytest.raises(DatasetError, match="is a file: give the folder"):
        load_corpus(str(texts / "train.txt"))


def test_a_file_that_cannot_be_read(texts, monkeypatch):
    def forbidden(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_text", forbidden)
    with pytest.raises(DatasetError, match=r"train\.txt cannot be read: Permission denied"):
        load_corpus(str(texts))
