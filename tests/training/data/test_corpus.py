"""A name becomes rows in three splits, or one line that says what is wrong with it."""

import csv
import json
import os
from pathlib import Path

import pytest

from bwsk_jax.training.data import cache
from bwsk_jax.training.data.corpus import load_corpus
from bwsk_jax.training.data.held_out import SPLITS
from bwsk_jax.training.data.text import DatasetError, embedded_corpus, folder_texts


def rows_of(corpus):
    return {split: list(getattr(corpus, split).rows()) for split in SPLITS}


def test_embedded_splits_are_deterministic_disjoint_and_of_the_intended_sizes():
    splits = rows_of(embedded_corpus())
    assert splits == rows_of(embedded_corpus()) == rows_of(load_corpus("embedded"))
    assert embedded_corpus().train.digest == embedded_corpus().train.digest

    lines = [line for rows in splits.values() for row in rows for line in row.splitlines()]
    assert len(lines) == len(set(lines)), "a paragraph is in two places"
    assert not any(line.startswith(("+-", "****")) for line in lines)

    sizes = {split: len("\n".join(rows)) for split, rows in splits.items()}
    total = sum(sizes.values())
    assert total > 200_000
    assert sizes["train"] > 0.7 * total
    assert all(0.05 * total < sizes[split] <= 0.101 * total for split in ("validation", "test"))


def test_the_rows_of_a_text_are_its_lines(tmp_path):
    for name in ("train", "valid", "test"):
        (tmp_path / f"{name}.txt").write_text(f"the {name} text €\r\n \nmore\x85of it", "utf-8", newline="")
    rows = rows_of(load_corpus(str(tmp_path)))
    assert rows["validation"] == ["the valid text €", "more", "of it"]
    assert rows["test"] == [
        line for line in (tmp_path / "test.txt").read_text("utf-8").splitlines() if line.strip()
    ]


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(DatasetError, match="no such folder"):
        load_corpus(str(tmp_path / "absent"))
    with pytest.raises(DatasetError, match=r"no train\.txt there, and no \.txt, \.jsonl, \.csv or \.parquet"):
        load_corpus(str(tmp_path))
    (tmp_path / "valid.txt").write_text("text")
    with pytest.raises(DatasetError, match=r"train\.txt missing"):
        load_corpus(str(tmp_path))


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
    assert rows_of(corpus) == {split: [f"the {split} text", "€"] for split in SPLITS}
    assert corpus.notes == ()


def test_edited_files_are_read_again(layout):
    from datasets import Dataset

    load_corpus(f"{layout}:raw")
    Dataset.from_dict({"text": ["another text"]}).to_parquet(layout / "raw" / "test.parquet")
    assert rows_of(load_corpus(f"{layout}:raw"))["test"] == ["another text"]


def test_parquet_files_alone_are_a_layout(layout):
    (layout / "README.md").unlink()
    assert rows_of(load_corpus(str(layout / "raw")))["test"] == ["the test text", "€"]


@pytest.mark.parametrize(
    ("spoil", "config", "message"),
    [
        (lambda folder: None, "", r"Config name is missing|Please pick one"),
        (lambda folder: None, ":cooked", "'cooked' not found.*raw.*short"),
        (lambda folder: None, ":short", "has too few rows to spare one in 20: the validation split is empty"),
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
    with pytest.raises(
        DatasetError,
        match="no column 'text'; it has words; only 'words' holds text: give --text-column words",
    ):
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
    def forbidden(file):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("bwsk_jax.training.data.text.stamp_of", forbidden)
    with pytest.raises(DatasetError, match=r"train\.txt cannot be read: Permission denied"):
        load_corpus(str(texts))


# --- formats -----------------------------------------------------------------------------------------------

COLUMNS = {
    "id": list(range(60)),
    "body": [f'row {n}, "quoted"\nin two lines €' if n % 7 else "" for n in range(60)],
    "title": ["a title"] * 60,
}


def write_format(folder, suffix, columns=COLUMNS, name="train"):
    from datasets import Dataset

    folder.mkdir(exist_ok=True)
    file = folder / f"{name}{suffix}"
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    if suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    elif suffix == ".csv":
        with file.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([columns, *(row.values() for row in rows)])
    else:
        Dataset.from_dict(columns).to_parquet(file)
    return folder


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_each_format_gives_the_same_rows(suffix, tmp_path):
    folder = write_format(tmp_path / "data", suffix)
    write_format(folder, suffix, name="validation")
    corpus = load_corpus(str(folder), "body")
    rows = rows_of(corpus)
    whole = [row for row in COLUMNS["body"] if row]
    assert rows["validation"] == whole and sorted(rows["train"] + rows["test"]) == sorted(whole)
    assert len(rows["test"]) == 3
    assert corpus.notes == (
        f"--dataset {folder} has no test split: one row in 20 of its training split is held out for it, "
        "the same rows for every variant and seed",
    )


def test_files_of_text_with_other_names_are_read_too(tmp_path):
    for part in ("a", "b"):
        (tmp_path / f"{part}.txt").write_text("".join(f"row {n} of {part}\n" for n in range(30)))
    rows = rows_of(load_corpus(str(tmp_path)))
    found = sorted(row for split in rows.values() for row in split)
    assert found == sorted(f"row {n} of {part}" for part in "ab" for n in range(30))


@pytest.mark.parametrize(
    ("column", "columns", "message"),
    [
        ("text", COLUMNS, "no column 'text'; it has id, body, title$"),
        ("id", COLUMNS, "its column 'id' holds no text; it has id, body, title$"),
        (
            "text",
            {"id": [1], "body": ["b"]},
            "no column 'text'; it has id, body; only 'body' holds text: give --text-column body$",
        ),
    ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_a_column_that_is_not_there(suffix, column, columns, message, tmp_path):
    folder = write_format(tmp_path / "data", suffix, columns)
    with pytest.raises(DatasetError, match=f"^--dataset {folder}: {message}"):
        load_corpus(str(folder), column)


@pytest.mark.parametrize(
    ("spoil", "column", "message"),
    [
        (
            lambda folder: (folder / "notes.txt").write_text("a"),
            "body",
            r"several formats \(\.txt, \.jsonl\): keep",
        ),
        (
            lambda folder: (folder / "train.jsonl").rename(folder / "test.jsonl"),
            "body",
            "no split train; it has test",
        ),
        (lambda folder: (folder / "train.jsonl").write_text('{"body": "a"}\n{nonsense'), "body", "."),
        (
            lambda folder: (folder / "train.jsonl").write_text('{"body": ""}\n'),
            "body",
            "its training split has too",
        ),
        (
            lambda folder: (folder / "train.txt").write_text("a"),
            "body",
            "^--text-column body: .* is plain text",
        ),
    ],
    ids=["several formats", "no train", "damaged", "empty", "no columns"],
)
def test_a_folder_that_cannot_be_used(spoil, column, message, tmp_path):
    folder = write_format(tmp_path / "data", ".jsonl")
    spoil(folder)
    if (folder / "train.txt").exists():
        for name in ("valid", "test"):
            (folder / f"{name}.txt").write_text("a")
    with pytest.raises(DatasetError, match=message):
        rows_of(load_corpus(str(folder), column))


# --- digests -----------------------------------------------------------------------------------------------


@pytest.fixture
def read(tmp_path, monkeypatch):
    """The names of the files that were read as a whole."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    names = []
    checked = load_corpus.__globals__["folder_texts"].__globals__["_checked_digest"]

    def reading(file):
        names.append(file.name)
        return checked(file)

    monkeypatch.setattr("bwsk_jax.training.data.text._checked_digest", reading)
    return names


def age(folder, seconds=60):
    for file in folder.iterdir():
        status = file.stat()
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns - seconds * 10**9))


def test_an_unchanged_text_is_not_read_again(texts, read):
    age(texts)
    first = load_corpus(str(texts)).train.digest
    assert read == ["train.txt", "valid.txt", "test.txt"]
    assert load_corpus(str(texts)).train.digest == first and len(read) == 3
    (texts / "train.txt").write_text("more\ntext\n")  # of the same size, later
    age(texts, 30)
    assert load_corpus(str(texts)).train.digest != first
    assert read[3:] == ["train.txt", "valid.txt", "test.txt"]


def test_a_text_that_was_changed_just_now_is_read_again(texts, read):
    load_corpus(str(texts))
    load_corpus(str(texts))
    assert len(read) == 6


def test_only_the_content_decides(texts, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    for name in ("train", "valid", "test"):
        (other / f"{name}.txt").write_text("some\ntext\n")
    assert load_corpus(str(texts)).test.digest == load_corpus(str(other)).test.digest


def test_where_digests_cannot_be_kept_texts_are_read_again(texts, read, tmp_path):
    (tmp_path / "cache").write_text("a file in the way")
    age(texts)
    load_corpus(str(texts))
    load_corpus(str(texts))
    assert len(read) == 6


def test_a_text_that_is_changed_while_it_is_read_is_noticed(texts):
    rows = folder_texts(texts)["train"].rows()
    next(rows)
    (texts / "train.txt").write_text("quite another text")
    with pytest.raises(DatasetError, match=r"train\.txt was changed meanwhile: give the command again"):
        list(rows)


def test_a_digest_tells_files_apart(tmp_path):
    file = Path(tmp_path, "file")
    file.write_bytes(b"abc")
    assert cache.file_digest(file) == cache.sha256_of(file)
    assert cache.sha256_of(file) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
