"""A run is uploaded whole and nothing beside it, or a line says why not; against a server here."""

import json
import shutil

import pytest
from huggingface_hub import constants

from bwsk_jax.train import main
from bwsk_jax.training.data import hub
from bwsk_jax.training.report.push import published_files
from tests.support.hub_server import serve_hub
from tests.support.runs import FLAGS

# The Hub's client uploads by a parameter that its HTTP library has given another name.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")
VARIANT = "scratch-conventional"


@pytest.fixture
def pushed(finished, text_folder, tmp_path, monkeypatch):
    """Push a copy of a finished run to a server; the repository there, and what was stored."""
    out, served = tmp_path / "out", tmp_path / "hub"
    shutil.copytree(finished / VARIANT, out / VARIANT)
    (out / "notes.txt").write_text("mine")
    (out / VARIANT / "notes.txt").write_text("mine")
    served.mkdir()

    uploads = {}

    def push(name="me/bert", token="token", limit=99):
        uploads["limit"] = limit
        with serve_hub(served, uploads=uploads) as endpoint:
            monkeypatch.setattr(constants, "ENDPOINT", endpoint)
            monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
            monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
            monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
            template = constants.HUGGINGFACE_CO_URL_TEMPLATE
            template = endpoint + template[template.index("/{repo_id}") :]
            monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
            monkeypatch.setenv("HF_TOKEN", token)
            hub._probe.cache_clear()
            flags = ["--variant", VARIANT, "--dataset", text_folder, "--out", str(out), *FLAGS]
            main([*flags, "--push-to-hub", name])
        return served / "models" / "me" / "bert", uploads

    return push


def contents(folder):
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def test_exactly_what_belongs_there_arrives(pushed, tmp_path, capsys):
    repository, uploads = pushed("bert")
    model = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    inside = {f"{VARIANT}/{name}" for name in (*model, "training_results.json", "loss.png")}
    assert contents(repository) == {"README.md", "results.json", *model, *inside}
    assert uploads["created"]["visibility"] == "private"
    for name, file in published_files(tmp_path / "out").items():
        assert (repository / name).read_bytes() == file.read_bytes()
    assert "from_pretrained('me/bert', subfolder=" in (repository / "README.md").read_text()
    assert json.loads((repository / "results.json").read_text())["hf_id"] == "me/bert"
    assert "pushed to the Hub: " in capsys.readouterr().out
    pushed("bert")  # again, to the repository that it has filled


def refused(pushed, capsys, status=2, **arguments):
    with pytest.raises(SystemExit) as ended:
        pushed(**arguments)
    assert ended.value.code == status
    return capsys.readouterr().err.splitlines()[-1]


def test_an_upload_that_is_cut_short_goes_on(pushed, tmp_path, capsys):
    line = refused(pushed, capsys, status=1, limit=1)
    assert line.startswith("error: --push-to-hub me/bert: ") and "the same command pushes again" in line
    repository, uploads = pushed()
    stored = [uploads[digest] for digest in uploads if len(digest) == 64]
    assert {len(body) for body in stored} == {
        (repository / VARIANT / name).stat().st_size for name in ("model.safetensors", "loss.png")
    }
    assert (repository / "README.md").is_file()


def test_who_is_not_known_is_told_to_log_in(pushed, capsys):
    line = refused(pushed, capsys, token="wrong")
    assert line.startswith("error: --push-to-hub me/bert: ") and line.endswith(
        "`hf auth login`, or set HF_TOKEN"
    )


def test_somebody_else_s_repository_is_refused(pushed, tmp_path, capsys):
    theirs = tmp_path / "hub" / "models" / "me" / "bert"
    for name in ("model.safetensors", "README.md"):
        theirs.mkdir(parents=True, exist_ok=True)
        (theirs / name).write_text("theirs")
        assert "holds files, but no model card of this program: give another" in refused(pushed, capsys)
        assert {file.read_text() for file in theirs.iterdir()} == {"theirs"}


def test_a_name_that_is_none_is_refused(pushed, capsys):
    assert "--push-to-hub a/b/c is not spelt like a repository" in refused(pushed, capsys, name="a/b/c")


def test_without_a_network_nothing_begins(text_folder, tmp_path, capsys):
    flags = ["--variant", VARIANT, "--dataset", text_folder, "--out", str(tmp_path / "out"), *FLAGS]
    with pytest.raises(SystemExit) as ended:
        main([*flags, "--push-to-hub", "me/bert"])
    assert ended.value.code == 2 and not (tmp_path / "out").exists()
    assert "--push-to-hub me/bert: HF_HUB_OFFLINE forbids to ask the Hub" in capsys.readouterr().err
