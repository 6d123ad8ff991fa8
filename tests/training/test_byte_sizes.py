import pytest

from bwsk_jax.training.byte_sizes import parse_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        *(("1", 1), ("7B", 7), ("2KB", 2000), ("3MB", 3_000_000), ("4GB", 4_000_000_000)),
        *(("2KiB", 2048), ("3MiB", 3 * 2**20), ("8GiB", 8 * 2**30), ("1.5 GiB", 3 * 2**29)),
    ],
)
def test_sizes(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "8gib", "8TB", "GiB", "-1", "1e9", "inf", "8GiB or so"])
def test_what_is_no_size(text):
    with pytest.raises(ValueError, match="a unit of B, KB, MB, GB, KiB, MiB, GiB"):
        parse_bytes(text)


def test_less_than_a_byte_is_refused():
    for text in ("0", "0.4B"):
        with pytest.raises(ValueError, match="at least one byte"):
            parse_bytes(text)
