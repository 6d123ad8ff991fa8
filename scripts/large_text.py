"""How long, and in how much memory, a text larger than memory is made ready for training.

    python scripts/large_text.py WIKITEXT --tokenizer VOCAB --megabytes 1000    (7 minutes of processor time)

WIKITEXT is a folder with `train.txt`. The script writes noisy copies of it, one after the other, until there
are so many megabytes of text: a tenth of the words are drawn anew from all words, and in one word of fifty
two letters change places. Validation and test are taken off it. Then it makes the text ready twice, each time
in a fresh process, as the start of a run does, up to the first 100 batches. It prints the seconds, without
imports, and the peak memory of all processes together: every tenth of a second it adds up what the process
and its children have resident, where pages that several share count once (PSS).
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tyro

READY = """
import itertools, json, sys, time
import jax, numpy, transformers, datasets, orbax.checkpoint
from bwsk_jax import bert
from bwsk_jax.training.data.corpus import load_corpus
from bwsk_jax.training.data.tokens import cached_tokens
from bwsk_jax.training.data.windows import cut_windows, epoch_rows, stream_of
started = time.perf_counter()
tokenizer = bert.load_tokenizer(sys.argv[2])
corpus = load_corpus(sys.argv[1])
splits = ("test", "validation", "train")
tokens = {split: cached_tokens(tokenizer, getattr(corpus, split), split) for split in splits}
windows = cut_windows(stream_of(tokens["train"], ()), 512, 512, split="train")
for rows in itertools.islice(epoch_rows(len(windows), 4, 4, seed=0, epoch=0), 100):
    windows[rows.ravel()].sum()
sizes = {split: len(found) for split, found in tokens.items()}
print(json.dumps({"seconds": round(time.perf_counter() - started, 2), "tokens": sizes}))
"""
MB = 1_000_000


def main(
    text: tyro.conf.Positional[str], tokenizer: str, megabytes: int = 1000, folder: str | None = None
) -> None:
    """Measure with `megabytes` made of the text in `text`, in a temporary folder within `folder`."""
    with tempfile.TemporaryDirectory(dir=folder, prefix="large-text-") as place:
        large = Path(place, "text")
        large.mkdir()
        write_noisy(Path(text, "train.txt"), large / "train.txt", megabytes * MB)
        print(f"{(large / 'train.txt').stat().st_size / MB:.0f} MB of text", flush=True)
        for start in ("first", "second"):
            command = [sys.executable, "-c", READY, str(large), tokenizer]
            found, peak = run(command, os.environ | {"XDG_CACHE_HOME": place})
            print(
                f"{start} start: {found['seconds']} s, peak {peak / MB:.0f} MB, {found['tokens']}", flush=True
            )
        kept = sum(file.stat().st_size for file in Path(place, "bwsk_jax").rglob("*") if file.is_file())
        print(f"kept on disk: {kept / MB:.0f} MB")


def write_noisy(source: Path, file: Path, size: int) -> None:
    """Write noisy copies of `source` to `file` until it has `size` bytes."""
    draw = random.Random(0)
    lines = source.read_text("utf-8").splitlines()
    words = [word for line in lines for word in line.split()]
    written = 0
    with file.open("w", encoding="utf-8") as stream:
        while True:
            for line in lines:
                noisy = " ".join(noise(draw, words, word) for word in line.split()) + "\n"
                stream.write(noisy)
                written += len(noisy.encode())
                if written >= size:
                    return


def noise(draw: random.Random, words: list[str], word: str) -> str:
    """Return `word`, or now and then another one, or the same with two letters exchanged."""
    chance = draw.random()
    if chance < 0.1:
        return words[int(draw.random() * len(words))]
    if chance < 0.12 and len(word) > 2:
        place = int(draw.random() * (len(word) - 1))
        return word[:place] + word[place + 1] + word[place] + word[place + 2 :]
    return word


def run(command: list[str], environment: dict[str, str]) -> tuple[dict, int]:
    """Return what `command` prints as JSON, and the peak memory of it and its children in bytes."""
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(map(proportional, family(process.pid))))
        time.sleep(0.1)
    assert process.stdout is not None
    if process.returncode:
        sys.exit(f"it ended with status {process.returncode}")
    return json.loads(process.stdout.read()), peak


def family(process: int) -> list[int]:
    """Return `process`, its children, their children, and so on, as far as they are still there."""
    try:
        files = list(Path("/proc", str(process), "task").glob("*/children"))
        children = [int(child) for file in files for child in file.read_text().split()]
    except OSError:
        return []
    return [process, *(one for child in children for one in family(child))]


def proportional(process: int) -> int:
    """Return the proportional set size of `process` in bytes, 0 once it has ended."""
    try:
        lines = Path("/proc", str(process), "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
