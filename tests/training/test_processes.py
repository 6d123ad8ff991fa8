"""Runs of several processes, with what they leave, and what is left when one of them is killed."""

import json
import signal
import time

import numpy as np
import pytest

from bwsk_jax.train import main
from tests.support.processes import ends, running, wait_for_checkpoint
from tests.support.runs import FLAGS, results

VARIANT = "scratch-reversible"
CURVES = ("loss_curve", "val_curve")
STEPS = 20
ENDLESS = ("--max-steps", "100000", "--save-every", "0")


def flags(text_folder, out, *more):
    return ["--variant", VARIANT, "--dataset", text_folder, "--out", str(out), *FLAGS, *more]


def assert_same_curves(root, expected):
    found = results(root, VARIANT)
    for curve in CURVES:
        np.testing.assert_allclose(found[curve], expected[curve], atol=1e-4, rtol=0)
    np.testing.assert_allclose(found["test_metric"], expected["test_metric"], rtol=1e-4)


@pytest.mark.slow
def test_two_processes_leave_what_one_leaves_and_one_of_them_speaks(finished, text_folder, tmp_path):
    with running(2, *flags(text_folder, tmp_path, "--mesh", "data=2,fsdp=2"), devices=2) as processes:
        (first, said, _), (second, silent, _) = ends(processes)
    assert (first, second) == (0, 0)
    assert "exported to" in said and "exported to" not in silent
    assert_same_curves(tmp_path, results(finished, VARIANT))
    names = [{path.name for path in (root / VARIANT).iterdir()} for root in (tmp_path, finished)]
    assert names[0] == names[1]
    options = json.loads((tmp_path / VARIANT / "options.json").read_text())
    assert options["mesh"] == "data=2,fsdp=2" and options["coordinator"] is None


@pytest.fixture(scope="module")
def unbroken(text_folder, tmp_path_factory):
    """What a run of one device leaves after `STEPS` steps."""
    out = tmp_path_factory.mktemp("unbroken")
    main(flags(text_folder, out, "--batch-size", "8", "--max-steps", str(STEPS)))
    return results(out, VARIANT)


@pytest.mark.slow
def test_curves_of_four_processes_are_those_of_one(unbroken, text_folder, tmp_path):
    run = flags(text_folder, tmp_path, "--batch-size", "8", "--max-steps", str(STEPS))
    with running(4, *run, "--mesh", "fsdp=2,model=2") as processes:
        assert [status for status, *_ in ends(processes)] == [0] * 4
    assert_same_curves(tmp_path, unbroken)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_the_others_and_as_many_or_fewer_go_on(killed, unbroken, text_folder, tmp_path):
    """The run of two is continued by two, or by one on another mesh."""
    run = flags(text_folder, tmp_path, "--batch-size", "8", "--max-steps", str(STEPS), "--save-every", "0")
    with running(2, *run, "--mesh", "fsdp=2") as processes:
        wait_for_checkpoint(tmp_path / VARIANT)
        processes[killed].kill()
        started = time.monotonic()
        status, _, said = ends(processes)[1 - killed]
        assert time.monotonic() - started < 60
    assert status != 0
    in_our_words = any(
        line.startswith(f"error: process {1 - killed} of 2 cannot go on") and "the same command" in line
        for line in said.splitlines()
    )
    # Without process 0, which the others report to, JAX's runtime may end them first.
    assert in_our_words or (killed == 0 and "another task died" in said)
    if killed:
        main([*run, "--mesh", "data=2"])
    else:
        with running(2, *run, "--mesh", "fsdp=2") as processes:
            assert [status for status, *_ in ends(processes)] == [0, 0]
    assert_same_curves(tmp_path, unbroken)


CALLS_WHEN_ALONE = """
import os, sys
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from bwsk_jax.processes import ending_together, join

flags = dict(zip(sys.argv[1::2], sys.argv[2::2]))
join(flags["--coordinator"], 2, int(flags["--process-id"]))
mesh = Mesh(np.array(jax.devices()), ("devices",))
split = NamedSharding(mesh, PartitionSpec("devices"))
total = jax.jit(lambda x: x.sum(), out_shardings=NamedSharding(mesh, PartitionSpec()))
with ending_together():
    for _ in range(100):
        total(jax.make_array_from_process_local_data(split, np.ones(1))).block_until_ready()
        if jax.process_index() == 1:
            os._exit(0)
"""


@pytest.mark.slow
def test_a_compiled_function_that_fails_at_its_second_call_ends_in_one_line():
    """JAX raises a `ValueError` there, where the first call would raise a `JaxRuntimeError`."""
    with running(2, program=("-c", CALLS_WHEN_ALONE)) as processes:
        (status, _, said), (gone, *_) = ends(processes)
    assert (status, gone) == (1, 0)
    assert "error: process 0 of 2 cannot go on" in said and "Traceback" not in said


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_at_the_same_step(text_folder, tmp_path):
    with running(2, *flags(text_folder, tmp_path, "--mesh", "data=2", *ENDLESS)) as processes:
        wait_for_checkpoint(tmp_path / VARIANT)
        processes[1].send_signal(signal.SIGTERM)
        found = ends(processes)
    assert [status for status, *_ in found] == [143, 143]
    lines = {line for _, _, said in found for line in said.splitlines() if line.startswith("SIGTERM")}
    (line,) = lines
    assert "saved; the same command continues from here" in line


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--process-id 0", "--process-id is of several processes: give --coordinator HOST:PORT as well"),
        ("--coordinator here:1", "--coordinator needs a --mesh of the devices of all processes"),
        ("--coordinator here:1 --mesh data=2", "here:1 needs --num-processes and --process-id"),
        ("--coordinator here --mesh data=2", "--coordinator here is no address: give HOST:PORT, or auto"),
        ("--coordinator auto --mesh data=2", "--coordinator auto: "),
        ("--coordinator here:1 --mesh data=2 --dry-run", "--coordinator is for training"),
        (
            "--coordinator here:1 --mesh data=2 --num-processes 2 --process-id 2",
            "--process-id 2 is not below --num-processes 2",
        ),
    ],
)
def test_mistakes_end_in_one_line(given, message, text_folder, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*flags(text_folder, tmp_path / "out"), *given.split()])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line
    assert list(tmp_path.iterdir()) == []
