"""Kill training runs at random moments and compare their curves with those of an unbroken run.

    python scripts/kill.py --kills 50    (about 20 minutes on two cores)

Each round starts a run of the demo model, kills it with SIGKILL after a random time, gives the same command
again, and so on until the run finishes. Its loss curve, validation curve, test metric and exported weights
have to be those of the unbroken run, bit for bit, and no other files may be left. The moments lie between the
end of the set-up and the end of the run, so that kills hit saves, validations, exports, the test and the
report as well as steps. The script prints one line per round and a total, and ends with status 1 if anything
differs.
"""

import json
import math
import random
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tyro

from bwsk_jax.training.data.text import embedded_corpus
from bwsk_jax.training.loop.checkpoints import CHECKPOINT_FOLDER

VARIANT = "scratch-reversible"
COMPARED = ("loss_curve", "val_curve", "test_metric", "best_val_metric", "early_stopped", "nan_count")


def main(
    kills: int = 50,
    seed: int = 0,
    minutes: float = 60,
    flags: str = "--max-steps 150 --save-every 0.5",
) -> None:
    """Run rounds with the training flags `flags` until `kills` kills are done or `minutes` are over."""
    deadline = time.time() + 60 * minutes
    place = Path(tempfile.mkdtemp(prefix="kill-"))
    moments = random.Random(seed)
    dataset = place / "text"
    write_text(dataset)
    training = ["--variant", VARIANT, "--dataset", str(dataset), *shlex.split(flags)]
    command = [sys.executable, "-m", "bwsk_jax.train", *training]
    started = time.time()
    seconds = run(command, place / "unbroken", math.inf)
    expected = outcome(place / "unbroken")
    print(
        f"unbroken: {len(expected[0]['loss_curve'])} steps, {time.time() - started:.0f} s, of which "
        f"{seconds:.0f} s after the set-up: kills are drawn from these",
        flush=True,
    )

    done = differing = rounds = 0
    while done < kills and time.time() < deadline:
        rounds += 1
        out = place / f"round-{rounds}"
        at = []
        while True:
            more = done + len(at) < kills and time.time() < deadline
            if run(command, out, moments.uniform(0, seconds) if more else math.inf) is not None:
                break
            at.append(newest_checkpoint(out))
        done += len(at)
        same = outcome(out) == expected
        differing += not same
        print(f"round {rounds}: {'the same' if same else 'DIFFERENT'}, {len(at)} kills at checkpoints {at}")
        sys.stdout.flush()
        shutil.rmtree(out)
    print(f"{done} kills in {rounds} runs; {differing} runs differ from the unbroken one")
    shutil.rmtree(place)
    sys.exit(1 if differing else 0)


def run(command: list[str], out: Path, patience: float) -> float | None:
    """Run `command`, and kill it `patience` seconds after it has written its flags.

    Return None if it was killed. If it finished before that, return the seconds from the flags to the end.
    """
    launched = time.time()
    process = subprocess.Popen([*command, "--out", str(out)], stdout=subprocess.DEVNULL)
    options = out / VARIANT / "options.json"
    while process.poll() is None and not (options.is_file() and options.stat().st_mtime > launched):
        time.sleep(0.02)
    started = time.time()
    try:
        status = process.wait(timeout=None if patience == math.inf else patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return None
    if status != 0:
        sys.exit(f"a run ended with status {status}")
    return time.time() - started


def write_text(folder: Path) -> None:
    """Write a small part of the embedded text, so that little time goes into tokenizing."""
    folder.mkdir()
    corpus = embedded_corpus()
    splits = (
        ("train", corpus.train, 150_000),
        ("valid", corpus.validation, 15_000),
        ("test", corpus.test, 15_000),
    )
    for name, text, size in splits:
        (folder / f"{name}.txt").write_text("\n".join(text.rows())[:size], "utf-8")


def newest_checkpoint(out: Path) -> int:
    """Return the number of the newest complete checkpoint, 0 if there is none."""
    found = (out / VARIANT / CHECKPOINT_FOLDER).glob("*")
    return max((int(path.name) for path in found if path.name.isdigit()), default=0)


def outcome(out: Path) -> tuple[dict, bytes, set[str]]:
    """Return what has to be the same as without kills: curves, metrics, weights, and names of files."""
    results = json.loads((out / VARIANT / "training_results.json").read_text())
    compared = {name: results[name] for name in COMPARED}
    return compared, (out / VARIANT / "model.safetensors").read_bytes(), files(out)


def files(out: Path) -> set[str]:
    """Return what lies in `out`. Inside a checkpoint, Orbax draws the names at random."""
    checkpoints = out / VARIANT / CHECKPOINT_FOLDER
    return {str(path.relative_to(out)) for path in out.rglob("*") if checkpoints not in path.parents[1:]}


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
