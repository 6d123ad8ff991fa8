from pathlib import Path

import pytest

from bwsk_jax.writing import check_writable


def test_leaves_nothing_and_asks_what_is_there(tmp_path):
    check_writable(tmp_path)
    check_writable(tmp_path / "not" / "yet")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("below", ["", "not/yet"])
def test_a_file_in_the_way(tmp_path, below):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        check_writable(tmp_path / "file" / below)


def test_a_link_that_leads_nowhere(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "dangling").symlink_to(tmp_path / "absent")
    for name in ("loop", "dangling"):
        with pytest.raises(OSError):
            check_writable(tmp_path / name / "below")
    assert not (tmp_path / "absent").exists()


def test_a_file_system_that_takes_no_files():
    with pytest.raises(OSError):
        check_writable(Path("/proc/new"))
