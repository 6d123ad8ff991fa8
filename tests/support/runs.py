"""Runs that many tests look at: trained once per session, however many processes share its tests."""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from bwsk_jax.train import main
from bwsk_jax.training.loop.checkpoints import Checkpoints

# Runs of the same flags and texts are compiled once: the tests that train share these where they can.
FLAGS = ("--seq-len", "16", "--batch-size", "4", "--max-steps", "4", "--lr", "1e-2")


def made_once(tmp_path_factory, name, make) -> Path:
    """Return the folder `name`, which is the same for all workers; the first that asks has `make` fill it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, done = shared / name, shared / f"{name}.done"
    with open(shared / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)  # what a worker left that failed
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


def train_variants(out: Path, text_folder: str) -> None:
    """Train the three scratch variants for 4 steps in one output folder, and fine-tune from one of them."""
    flags = ["--dataset", text_folder, "--out", str(out), *FLAGS]
    for mode in ("conventional", "analyzed", "reversible"):
        main(["--variant", f"scratch-{mode}", *flags])
    init = str(out / "scratch-conventional")
    main(["--variant", "finetune-bwsk-reversible", "--init", init, "--precision", "bf16", *flags])


def results(root: Path, variant: str) -> dict:
    """Return what the run of `variant` left in training_results.json."""
    return json.loads((root / variant / "training_results.json").read_text())


@contextlib.contextmanager
def killed_after_save(monkeypatch, step: int | None = None) -> Iterator[None]:
    """What runs within dies after its save at `step`, or after its first."""
    save = Checkpoints.save

    def save_and_die(self, state, history):
        save(self, state, history)
        if step is None or history.total_steps == step:
            raise MemoryError

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(Checkpoints, "save", save_and_die)
        yield
