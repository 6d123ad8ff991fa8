"""A disk that fills up on the way: one line, status 1, what was saved whole, and the same command goes on."""

import contextlib
import os
import resource
import subprocess

import pytest

from bwsk_jax import bert
from bwsk_jax.train import main
from bwsk_jax.training import run
from bwsk_jax.training.loop.checkpoints import Checkpoints
from tests.support.texts import write_text

VARIANT = "scratch-conventional"
FILLER = "filler"


@contextlib.contextmanager
def files_limited(folder):
    """No file grows beyond 1000 bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@contextlib.contextmanager
def disk_filled(folder):
    """The file system of `folder` has no room."""
    room = os.statvfs(folder)
    with open(folder / FILLER, "wb", buffering=0) as filler, contextlib.suppress(OSError):
        for _ in range(room.f_bavail + 1):
            filler.write(bytes(room.f_frsize))
    try:
        yield
    finally:
        (folder / FILLER).unlink()


@pytest.fixture(params=[files_limited, pytest.param(disk_filled, marks=pytest.mark.slow)])
def disk(request, tmp_path):
    """A folder, and a context in which no large file can be written there."""
    if request.param is files_limited:
        yield tmp_path, files_limited
        return
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", tmp_path])
    if mounted.returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        yield tmp_path, disk_filled
    finally:
        subprocess.run(["umount", "--lazy", tmp_path], check=True)


def failing(function, folder, full, when=lambda *args: True):
    """Return `function` as it is where the disk is full when it is called."""

    def call(*args, **kwargs):
        with full(folder) if when(*args) else contextlib.nullcontext():
            return function(*args, **kwargs)

    return call


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")  # Orbax gave up writing
@pytest.mark.filterwarnings("ignore:Exception ignored in. <coroutine object async_serialize")
def test_a_disk_that_fills_up_ends_in_a_line_and_the_run_goes_on_when_there_is_room(
    disk, tmp_path_factory, monkeypatch, capsys
):
    folder, full = disk
    text = write_text(tmp_path_factory.mktemp("text"))
    out = folder / "out"
    flags = ["--variant", VARIANT, "--dataset", str(text), "--out", str(out), "--seq-len", "16"]
    flags += ["--batch-size", "4", "--max-steps", "2", "--lr", "1e-2", "--save-every", "0"]

    def fails(place, name, when=lambda *args: True):
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
            patch.setattr(place, name, failing(getattr(place, name), folder, full, when))
            main(flags)
        assert ended.value.code == 1
        captured = capsys.readouterr()
        told = [line for line in captured.err.splitlines() if not line.endswith(" left")]  # but for progress
        assert len(told) == 1, captured.err
        line = told[0]
        assert line.startswith("error: ") and line.endswith("the same command continues from there")
        reason = "File too large" if full is files_limited else "No space left on device"
        assert reason in line
        left = [path.name for path in folder.rglob("*") if "tmp" in path.name or path.name.startswith(".")]
        assert left == []
        return captured.out, line

    _, line = fails(bert, "save_tokenizer")
    assert f"{out / VARIANT}" in line
    assert {path.name for path in (out / VARIANT).iterdir()} == {"options.json"}

    _, line = fails(Checkpoints, "save", when=lambda checkpoints, state, history: history.total_steps == 2)
    assert "checkpoints: step 2 could not be saved" in line

    printed, line = fails(bert, "save_pretrained")
    assert "resuming after step 1/2" in printed and "model.safetensors" in line

    printed, line = fails(run, "plot_loss")
    assert "resuming after step 1/2" in printed and "loss.png" in line

    printed, line = fails(run, "write_json", when=lambda values, path: path.name == "training_results.json")
    assert "resuming after step 2/2" in printed and "training_results.json" in line

    main(flags)
    assert "resuming after step 2/2" in capsys.readouterr().out
    assert (out / VARIANT / "training_results.json").is_file() and (out / "results.json").is_file()
