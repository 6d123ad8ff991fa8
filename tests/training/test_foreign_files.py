"""Only what this program wrote is replaced: a folder with other files is refused and stays as it is."""

import json
import shutil

import pytest

from bwsk_jax.train import main
from tests.support.runs import FLAGS

VARIANT = "scratch-conventional"
CARD = b"---\nlicense: mit\n---\n# A model from the Hub\n"


def contents(folder):
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("README.md", CARD, "its README.md was not written by this program"),
        ("results.json", b'{"model_name": "BWSK mini", "runs": []}', "its results.json was not written by"),
        ("results.json", b"[", "its results.json was not written by"),
        (f"{VARIANT}/config.json", b"{}", f"{VARIANT} holds files, but no options.json of a run"),
        (f"{VARIANT}/options.json", b"{}", "options.json was not written by this program"),
        (f"{VARIANT}/options.json", b"{", "options.json is damaged"),
    ],
)
def test_somebody_else_s_file_is_refused_and_kept(text_folder, tmp_path, capsys, name, content, message):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    with pytest.raises(SystemExit) as ended:
        main(["--variant", VARIANT, "--dataset", text_folder, "--out", str(tmp_path), *FLAGS])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line and "give another --out" in line
    assert contents(tmp_path) == {file: content}


def test_a_foreign_link_is_refused_and_kept(text_folder, tmp_path, capsys):
    (tmp_path / "README.md").symlink_to("elsewhere")
    with pytest.raises(SystemExit) as ended:
        main(["--variant", VARIANT, "--dataset", text_folder, "--out", str(tmp_path), *FLAGS])
    assert ended.value.code == 2 and (tmp_path / "README.md").is_symlink()
    assert "README.md was not written by this program" in capsys.readouterr().err


def test_a_finished_run_whose_card_somebody_replaced_is_refused(finished, text_folder, tmp_path, capsys):
    out = shutil.copytree(finished, tmp_path / "out")
    (out / "README.md").write_bytes(CARD)
    before = contents(out)
    with pytest.raises(SystemExit) as ended:
        main(["--variant", VARIANT, "--dataset", text_folder, "--out", str(out), *FLAGS])
    assert ended.value.code == 2 and contents(out) == before
    assert "README.md was not written by this program" in capsys.readouterr().err


def test_what_a_run_gathers_is_known_by_what_it_writes(finished):
    assert json.loads((finished / "results.json").read_text())["written_by"] == "bwsk_jax.train"
    assert "<!-- Written by bwsk_jax.train" in (finished / "README.md").read_text()
