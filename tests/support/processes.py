"""Several processes of the training command that run side by side, each with simulated devices."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

SECONDS = 300
"""For which a run may take, on a machine that does other things too."""


@contextlib.contextmanager
def running(
    count: int, *flags: str, devices: int = 1, program: tuple[str, str] = ("-m", "bwsk_jax.train")
) -> Iterator[list[subprocess.Popen]]:
    """Start `count` processes, each with so many `devices`, on one run; in the end kill what is left.

    A `program` is what Python runs in each of them.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    simulated = f"--xla_force_host_platform_device_count={devices}"
    processes = [
        subprocess.Popen(
            [
                *(sys.executable, *program, *flags),
                *("--coordinator", address, "--num-processes", str(count), "--process-id", str(number)),
            ],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "XLA_FLAGS": simulated},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def ends(processes: list[subprocess.Popen]) -> list[tuple[int, str, str]]:
    """Return the exit status, standard output and standard error of each process, when they have ended."""
    said = [process.communicate(timeout=SECONDS) for process in processes]
    return [(process.returncode, *texts) for process, texts in zip(processes, said, strict=True)]


def wait_for_checkpoint(folder: Path) -> None:
    """Return when the run in a variant's `folder` has saved."""
    deadline = time.monotonic() + SECONDS
    while not any(path.name.isdigit() for path in folder.glob("checkpoints/*")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
