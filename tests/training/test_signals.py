"""SIGTERM and Ctrl-C outside training: one line, 128 + the signal, and the same command goes on."""

import os
import signal
import subprocess
import sys

import pytest

from bwsk_jax.train import main
from bwsk_jax.training.loop.interruption import STOPPED
from tests.support.texts import write_text

# Runs the command; PLACE.NAME announces that it is there, after some seconds in it.
ANNOUNCED = """
import sys
import threading
from {module} import {place} as place
from bwsk_jax.train import main
function = place.{name}
def announced(*args, **kwargs):
    threading.Timer({after}, print, ["here"], {{"flush": True}}).start()
    return function(*args, **kwargs)
place.{name} = announced
main(sys.argv[1:])
"""
SETUP = {
    "module": "bwsk_jax.training.data",
    "place": "sources",
    "name": "load_corpus",
    "after": 0,
    "said": STOPPED,
}
COMPILATION = {"module": "jax.stages", "place": "Lowered", "name": "compile", "after": 0.5, "said": STOPPED}
TEST = {"module": "bwsk_jax", "place": "bert", "name": "load_pretrained", "after": 0}
TEST |= {"said": "in the sampled test: saved; the same command continues from here"}


# Runs the command; the import of a module sends it a signal.
SIGNALLED = """
import os, sys
from bwsk_jax.train import main
class Signals:
    def find_spec(self, name, *_):
        if name == {name!r}:
            os.kill(os.getpid(), {number})
sys.meta_path.insert(0, Signals())
main([])
"""


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("tyro", signal.SIGINT),
        pytest.param("numpy", signal.SIGTERM, marks=pytest.mark.slow),
        ("jaxlib.xla_client", signal.SIGINT),
        pytest.param("jax.numpy", signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
def test_a_signal_while_modules_are_imported_ends_the_run_in_a_line(tmp_path, name, number):
    ran = subprocess.run(
        [sys.executable, "-c", SIGNALLED.format(name=name, number=int(number))],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 128 + number, ran.stderr
    assert ran.stderr.startswith(f"{number.name} outside training: stopped") and ran.stderr.count("\n") == 1
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "number"),
    [
        pytest.param(SETUP, signal.SIGINT, id="set-up"),
        pytest.param(COMPILATION, signal.SIGTERM, id="compilation"),
        pytest.param(TEST, signal.SIGTERM, id="test, SIGTERM", marks=pytest.mark.slow),
        pytest.param(TEST, signal.SIGINT, id="test, SIGINT", marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_the_run_in_a_line_and_the_same_command_goes_on(tmp_path, capsys, where, number):
    flags = ["--variant", "scratch-conventional", "--dataset", str(write_text(tmp_path / "text"))]
    flags += ["--out", str(tmp_path / "out"), "--seq-len", "16", "--batch-size", "4", "--max-steps", "1"]
    running = subprocess.Popen(
        [sys.executable, "-c", ANNOUNCED.format(**where), *flags],
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join(sys.path)}
        | {"JAX_ENABLE_COMPILATION_CACHE": "false" if where is COMPILATION else "true"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while running.stdout.readline() not in ("here\n", ""):
        pass
    running.send_signal(number)
    _, said = running.communicate(timeout=300)
    assert running.returncode == 128 + number, said
    assert said == f"{number.name} {where['said']}\n"
    left = {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert left == set() if where is SETUP else "training_results.json" not in left
    assert not any(name.endswith(".tmp") or name.startswith(".") for name in left)

    if where is TEST and number is signal.SIGTERM:
        main(flags)
        assert "resuming after step 1/1" in capsys.readouterr().out
        assert (tmp_path / "out" / "results.json").is_file()
