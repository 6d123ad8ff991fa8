"""Tokens do not depend on pieces, kills, other processes, nor on a cache that is damaged or forbidden."""

import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bwsk_jax import bert
from bwsk_jax.training.data import tokens
from bwsk_jax.training.data.cache import digest_of
from bwsk_jax.training.data.text import Text, folder_texts
from bwsk_jax.training.data.tokens import cached_tokens, tokenize, trained_tokenizer

ROWS = ["The dog sleeps.", "  ", "A fox jumps over the dog.\r\n\nThe\x0b end", "dog " * 700, "\u2028"]
FILES = {"tokens.bin", "documents.bin", "about.json"}


def text_of(rows):
    return Text("a text", digest_of(*rows), sum(map(len, rows)), lambda: (row for row in rows))


TEXT = text_of(ROWS)
TOKENIZER = bert.train_tokenizer(" ".join(ROWS).splitlines(), vocab_size=80)


def in_one_piece(tokenizer, rows):
    """What transformers' own interface gives for the lines of the whole text at once."""
    lines = [line for line in "\n".join(rows).splitlines() if line.strip()]
    encoded = tokenizer(lines, add_special_tokens=False, verbose=False)["input_ids"] if lines else []
    return list(itertools.chain.from_iterable(encoded))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "bwsk_jax" / "tokens"


@pytest.fixture
def count(monkeypatch):
    """How many rows were tokenised, text by text."""
    counts = []

    def counting(tokenizer, rows):
        rows = list(rows)
        counts.append(len(rows))
        return tokenize(tokenizer, rows)

    monkeypatch.setattr(tokens, "tokenize", counting)
    return counts


def assert_same(found, expected, dtype=np.uint16):
    np.testing.assert_array_equal(found.ids, expected)
    assert found.ids.dtype == dtype
    np.testing.assert_array_equal(found.counts, np.bincount(expected, minlength=len(TOKENIZER)))


def test_a_text_is_tokenised_once_and_mapped(cache, count):
    for _ in range(2):
        found = cached_tokens(TOKENIZER, TEXT, "train text")
        assert_same(found, in_one_piece(TOKENIZER, ROWS))
        assert isinstance(found.ids.base, np.memmap) and isinstance(found.ends.base, np.memmap)
    assert count == [3]
    (folder,) = cache.iterdir()
    assert {file.name for file in folder.iterdir()} == FILES


lines = st.text(st.sampled_from("dog fox.\n\r\x85\u2028é[MASK]"), max_size=30)


@given(rows=st.lists(lines, max_size=12), size=st.integers(1, 40))
def test_pieces_do_not_show_in_the_tokens(rows, size):
    rows = [row for row in rows if row.strip()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens, "PIECE_CHARACTERS", size)
        pieces = list(tokenize(TOKENIZER, rows))
    assert [int(i) for piece in pieces for i in piece.ids] == in_one_piece(TOKENIZER, rows)
    lengths = [int(length) for piece in pieces for length in piece.lengths]
    assert lengths == [n for row in rows if (n := len(in_one_piece(TOKENIZER, [row])))]
    assert sum(piece.rows for piece in pieces) == len(rows)


def test_documents_end_where_their_rows_do():
    found = cached_tokens(TOKENIZER, TEXT)
    lengths = [len(in_one_piece(TOKENIZER, [row])) for row in ROWS]
    np.testing.assert_array_equal(found.ends, np.cumsum([length for length in lengths if length]))


def test_a_vocabulary_beyond_16_bits_has_wider_ids(monkeypatch):
    monkeypatch.setattr(tokens, "_largest_id", lambda tokenizer: 1 << 16)
    assert cached_tokens(TOKENIZER, TEXT).ids.dtype == np.int32


def test_text_and_tokenizer_decide(cache, count):
    other = bert.train_tokenizer(["a fox and a dog"], vocab_size=60)
    for one in (TOKENIZER, other):
        for rows in (ROWS, [*ROWS, "of it"], ["dog"]):
            np.testing.assert_array_equal(cached_tokens(one, text_of(rows)).ids, in_one_piece(one, rows))
    assert len(count) == len(list(cache.iterdir())) == 6


def test_the_digest_is_that_of_the_ids_wherever_they_are(monkeypatch):
    kept = cached_tokens(TOKENIZER, TEXT)
    monkeypatch.setattr(tokens, "cache_folder", lambda: None)
    held = cached_tokens(TOKENIZER, TEXT)
    assert (kept.ids_digest, kept.ends_digest) == (held.ids_digest, held.ends_digest)
    assert cached_tokens(TOKENIZER, text_of(ROWS[:1])).ids_digest != kept.ids_digest


@pytest.mark.parametrize("name", sorted(FILES))
@pytest.mark.parametrize("damage", [b"", b"garbage", None])
def test_a_damaged_file_is_replaced(cache, name, damage):
    expected = in_one_piece(TOKENIZER, ROWS)
    cached_tokens(TOKENIZER, TEXT)
    (file,) = cache.glob(f"*/{name}")
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage)
    for _ in range(2):
        assert_same(cached_tokens(TOKENIZER, TEXT), expected)


# --- kills -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept_pieces", [0, 1, 4])
def test_a_tokenisation_that_was_cut_short_goes_on_where_it_was(monkeypatch, count, cache, kept_pieces):
    """It ends in the middle of writing a piece, so that files hold more than the progress says."""
    monkeypatch.setattr(tokens, "PIECE_CHARACTERS", 20)
    rows = [f"the dog sleeps {'fox ' * n}" for n in range(9)]
    written = []

    def killed(file, values):
        written.append(values)
        if len(written) > kept_pieces:
            raise KeyboardInterrupt
        keep_json(file, values)

    keep_json = tokens.keep_json
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tokens, "keep_json", killed)
        cached_tokens(TOKENIZER, text_of(rows))
    (folder,) = cache.iterdir()
    assert not (folder / "about.json").exists() and (folder / "tokens.bin").stat().st_size > 0
    done = written[kept_pieces - 1]["rows"] if kept_pieces else 0
    found = cached_tokens(TOKENIZER, text_of(rows))
    assert_same(found, in_one_piece(TOKENIZER, rows))
    np.testing.assert_array_equal(found.ends, np.cumsum([len(in_one_piece(TOKENIZER, [r])) for r in rows]))
    assert count == [9, 9 - done] and (done > 0) == (kept_pieces > 0)
    assert {file.name for file in folder.iterdir()} == FILES


HALTING = """
import sys
from pathlib import Path
from bwsk_jax import bert
from bwsk_jax.training.data import tokens
from bwsk_jax.training.data.text import folder_texts
tokens.PIECE_CHARACTERS = 300
write = tokens.keep_json
def halting(file, values):
    write(file, values)
    print(values.get("rows"), flush=True)
    sys.stdin.readline()
tokens.keep_json = halting
text = folder_texts(Path(sys.argv[1]))["train"]
found = tokens.cached_tokens(bert.load_tokenizer(sys.argv[2]), text, "train text")
print("end", found.ids_digest)
"""


@pytest.fixture
def start(tmp_path):
    """Starts a process that tokenises a text, and halts after each piece for a line of its input."""
    folder, started = tmp_path / "text", []
    folder.mkdir()
    (folder / "train.txt").write_text("\n".join(f"the dog {n} jumps" for n in range(400)))
    bert.save_tokenizer(TOKENIZER, tmp_path / "tokenizer")

    def begin():
        command = [sys.executable, "-c", HALTING, str(folder), str(tmp_path / "tokenizer")]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        started.append(subprocess.Popen(command, **pipes, text=True))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def expected_end(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens, "cache_folder", lambda: None)
        return f"end {cached_tokens(TOKENIZER, folder_texts(tmp_path / 'text')['train']).ids_digest}"


@pytest.mark.slow
def test_a_killed_process_leaves_what_the_next_one_goes_on_with(start, tmp_path):
    first = start()
    for _ in range(3):
        rows = int(first.stdout.readline())
        first.stdin.write("\n")
        first.stdin.flush()
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    said, errors = start().communicate(timeout=100)
    assert errors == ""
    assert int(said.split()[0]) > rows and said.splitlines()[-1] == expected_end(tmp_path)


@pytest.mark.slow
def test_two_processes_share_the_work_of_one(start, tmp_path):
    first = start()
    first.stdout.readline()
    second = start()
    assert second.stderr.readline() == "waiting for another process, which is tokenising the train text\n"
    for process in (first, second):
        said, _ = process.communicate(timeout=100)
        assert said.splitlines()[-1] == expected_end(tmp_path)
    assert said.count("\n") == 1


# --- where nothing can be kept -----------------------------------------------------------------------------


def test_without_room_the_tokens_stay_in_memory(cache, monkeypatch, capsys):
    def full(file, values):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tokens, "keep_json", full)
    assert_same(cached_tokens(TOKENIZER, TEXT), in_one_piece(TOKENIZER, ROWS), np.int32)
    assert [file for file in cache.rglob("*") if file.is_file()] == []
    fault = "cannot keep the tokens of the text (No space left on device): they stay in memory"
    assert capsys.readouterr().err == f"note: {cache.parent} {fault}\n"


def test_where_no_folder_can_be_made_the_tokens_stay_in_memory(tmp_path):
    (tmp_path / "bwsk_jax").write_text("a file in the way")
    assert_same(cached_tokens(TOKENIZER, TEXT), in_one_piece(TOKENIZER, ROWS), np.int32)


def test_without_a_home_the_tokens_stay_in_memory(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    assert_same(cached_tokens(TOKENIZER, TEXT), in_one_piece(TOKENIZER, ROWS), np.int32)


class WithoutDefinition:
    """A tokenizer that is not written in Rust, as far as tokens are concerned."""

    get_vocab = TOKENIZER.get_vocab

    def __call__(self, *args, **options):
        return TOKENIZER(*args, **options)


def test_a_tokenizer_that_does_not_say_what_it_is_is_never_kept(cache):
    assert_same(cached_tokens(WithoutDefinition(), TEXT), in_one_piece(TOKENIZER, ROWS), np.int32)
    assert not cache.exists()


# --- a vocabulary that is trained --------------------------------------------------------------------------


def test_a_vocabulary_is_trained_once(monkeypatch, tmp_path):
    trained = trained_tokenizer(TEXT, 80)
    assert trained.backend_tokenizer.to_str() == TOKENIZER.backend_tokenizer.to_str()
    with monkeypatch.context() as patch:
        patch.setattr(bert, "train_tokenizer", None)
        again = trained_tokenizer(TEXT, 80)
    assert again.backend_tokenizer.to_str() == trained.backend_tokenizer.to_str()
    trained_tokenizer(TEXT, 60)
    assert len(list((tmp_path / "bwsk_jax" / "vocabularies").iterdir())) == 2
