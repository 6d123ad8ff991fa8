"""One process at a time: the lock names its holder, ends with it, and does without the kernel's locks."""

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys

import pytest

from bwsk_jax.locking import LOCK_FILE, InUseError, locked

HOLD = """
import sys, time
from pathlib import Path
from bwsk_jax.locking import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the folder."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def no_locks(*_):
    raise OSError(errno.ENOLCK, "No locks available")


@pytest.mark.parametrize("has_locks", [True, False])
def test_a_second_process_is_told_who_holds_it_until_that_is_killed(tmp_path, holder, monkeypatch, has_locks):
    if not has_locks:
        monkeypatch.setattr(fcntl, "flock", no_locks)
    said = f"is in use by process {holder.pid} on {socket.gethostname()}: wait for it or give another --out"
    with pytest.raises(InUseError, match=said), locked(tmp_path, patience=0.2):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / LOCK_FILE).exists()
    with locked(tmp_path):
        assert (tmp_path / LOCK_FILE).read_text() == f"process {os.getpid()} on {socket.gethostname()}"
    assert not any(tmp_path.iterdir())


def test_without_locks_a_holder_on_another_machine_may_be_alive(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", no_locks)
    (tmp_path / LOCK_FILE).write_text("process 1 on elsewhere")
    with pytest.raises(InUseError, match="process 1 on elsewhere"), locked(tmp_path):
        pass
    (tmp_path / LOCK_FILE).unlink()
    with locked(tmp_path):
        pass


def test_whoever_waits_gets_it_when_it_is_free_and_nobody_a_file_that_was_removed(tmp_path):
    with locked(tmp_path), pytest.raises(InUseError), locked(tmp_path):
        pass
    with locked(tmp_path, patience=60):
        assert (tmp_path / LOCK_FILE).exists()
