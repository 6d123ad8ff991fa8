import os
import subprocess
import sys
import time

import jax
import pytest

from bwsk_jax.training.device import DeviceError, select_device


def test_the_device_there_is_can_be_asked_for():
    select_device("auto")
    select_device(jax.default_backend())


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="there is a GPU")
@pytest.mark.parametrize(
    ("platforms", "flags", "message"),
    [
        ("", "--device gpu", "error: --device gpu: JAX finds none, only cpu: give --device cpu"),
        pytest.param(
            *("cpu", "--device gpu", "error: --device gpu: JAX finds none, only cpu: give --device cpu"),
            marks=pytest.mark.slow,
        ),
        ("cuda", "", "error: JAX_PLATFORMS=cuda: "),
    ],
)
def test_a_gpu_where_there_is_none_ends_soon_and_in_a_line(tmp_path, platforms, flags, message):
    started = time.perf_counter()
    ran = subprocess.run(
        [sys.executable, "-m", "bwsk_jax.train", "--out", str(tmp_path / "out"), *flags.split()],
        env=os.environ | {"JAX_PLATFORMS": platforms, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 2 and time.perf_counter() - started < 30
    (line,) = ran.stderr.splitlines()
    assert line.startswith(message)
    assert not any(tmp_path.iterdir())


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="there is a GPU")
def test_jax_that_is_in_use_already_is_not_taken_for_a_gpu():
    before = jax.config.jax_platforms
    try:
        with pytest.raises(DeviceError, match="JAX finds none, only cpu"):
            select_device("gpu")
    finally:
        jax.config.update("jax_platforms", before)
