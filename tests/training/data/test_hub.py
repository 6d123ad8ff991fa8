"""Names on the Hub, against a server here that speaks its API, its cache, and no network at all."""

import os
import socket
import subprocess
import sys
import time

import pytest

from bwsk_jax import bert
from tests.support.hub_server import serve_hub
from tests.support.tiny import CONFIG, params

DATASET = "someone/texts"
MODEL = "someone/small-bert"
README = """---
configs:
- config_name: raw
  data_files:
  - {split: train, path: raw/train-*}
  - {split: validation, path: raw/validation-*}
  - {split: test, path: raw/test-*}
- config_name: other
  data_files:
  - {split: train, path: other/train-*}
---
"""

USE = f"""
from bwsk_jax import bert
from bwsk_jax.training.data.corpus import load_corpus
from bwsk_jax.training.data.sources import model_folder, tokenizer_path
corpus = load_corpus("{DATASET}:raw")
print([list(text.rows()) for text in (corpus.train, corpus.validation, corpus.test)])
folder = model_folder("{MODEL}")
print(sorted(file.name for file in folder.iterdir()))
print(len(bert.load_tokenizer(tokenizer_path("{MODEL}"))))
"""
USED = (
    "[['the train text', 'in two rows'], ['the validation text'], ['the test text']]\n"
    "['config.json', 'model.safetensors', 'tokenizer.json', 'tokenizer_config.json']\n"
)


def write_dataset(folder):
    from datasets import Dataset

    (folder / "raw").mkdir(parents=True)
    (folder / "other").mkdir()
    (folder / "README.md").write_text(README)
    for split in ("train", "validation", "test"):
        rows = [f"the {split} text", "", *(["in two rows"] if split == "train" else [])]
        Dataset.from_dict({"text": rows}).to_parquet(folder / "raw" / f"{split}-00000-of-00001.parquet")
    Dataset.from_dict({"words": ["a"]}).to_parquet(folder / "other" / "train-00000-of-00001.parquet")


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A folder with one dataset and one model, laid out for `serve_hub`."""
    root = tmp_path_factory.mktemp("hub")
    write_dataset(root / "datasets" / DATASET)
    model = root / "models" / MODEL
    bert.save_pretrained(model, CONFIG, params())
    bert.save_tokenizer(bert.train_tokenizer(["to be or not to be"], vocab_size=CONFIG.vocab_size), model)
    (model / "pytorch_model.bin").write_bytes(b"a pickle that nobody asks for")
    return root


@pytest.fixture(scope="module")
def filled(hub, tmp_path_factory):
    """A Hub cache that has been filled from the server, and what was printed then."""
    home = tmp_path_factory.mktemp("home")
    with serve_hub(hub) as endpoint:
        ran = python(USE, HF_HOME=home, HF_ENDPOINT=endpoint)
    assert ran.returncode == 0, ran.stderr
    return home, ran.stdout


def python(code, **variables):
    """Run `code` where nothing but `variables` and the path says how to reach the Hub."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS"))}
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=100,
        env=kept | {"PYTHONPATH": os.pathsep.join(sys.path)} | {k: str(v) for k, v in variables.items()},
    )


def closed_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_dataset_tokenizer_and_model_come_from_the_server(filled):
    assert filled[1].startswith(USED)


@pytest.mark.slow
@pytest.mark.parametrize(
    "offline",
    [pytest.param(True, id="offline mode", marks=pytest.mark.slow), pytest.param(False, id="no network")],
)
def test_a_filled_cache_is_enough(filled, offline):
    home, printed = filled
    ran = python(USE, HF_HOME=home, **({"HF_HUB_OFFLINE": 1} if offline else {"HF_ENDPOINT": closed_port()}))
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == printed


@pytest.mark.slow
def test_a_cache_of_files_is_enough(filled, tmp_path):
    home, printed = filled
    (tmp_path / "hub").symlink_to(home / "hub")
    ran = python(USE, HF_HOME=tmp_path, HF_HUB_OFFLINE=1)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == printed


@pytest.fixture
def silent_server():
    """The address of a server that accepts connections and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


MISTAKES = """
import sys, time
from bwsk_jax.train import main
for flags in sys.argv[1:] or {flags!r}:
    started = time.perf_counter()
    try:
        main(flags.split())
    except SystemExit as ended:
        print(ended.code, f"{{time.perf_counter() - started:.1f}}")
"""
FROM_THE_HUB = [
    f"--dataset {DATASET} --preset demo",
    "--preset mini --tokenizer trained",
    f"--tokenizer {MODEL}",
    "--variant finetune-conventional",
]


@pytest.fixture
def failing_server():
    with serve_hub(None) as endpoint:
        yield endpoint


@pytest.mark.parametrize(
    "network",
    ["offline mode", *(pytest.param(n, marks=pytest.mark.slow) for n in ("refused", "silent", "failing"))],
)
def test_without_a_network_the_answer_comes_soon_and_names_the_ways_out(
    network, silent_server, failing_server, tmp_path
):
    variables, reason = {
        "offline mode": ({"HF_HUB_OFFLINE": 1}, "HF_HUB_OFFLINE forbids"),
        "refused": ({"HF_ENDPOINT": closed_port()}, "cannot be reached"),
        "silent": ({"HF_ENDPOINT": silent_server}, silent_server),
        "failing": ({"HF_ENDPOINT": failing_server}, "answers with status 503"),
    }[network]
    ran = python(MISTAKES.format(flags=FROM_THE_HUB), HF_HOME=tmp_path, **variables)
    assert ran.returncode == 0, ran.stderr
    lines, answers = ran.stderr.splitlines(), [line.split() for line in ran.stdout.splitlines()]
    assert len(lines) == len(answers) == len(FROM_THE_HUB), ran.stderr
    for line, (status, seconds) in zip(lines, answers, strict=True):
        assert status == "2" and float(seconds) < 20
        assert line.startswith("error: --") and reason in line
        assert "give " in line and "hf download" in line and "HF_HOME" in line
    assert "'embedded'" in lines[0] and "wikitext-2-raw-v1" in lines[1]
    assert "'trained'" in lines[2] and "google-bert/bert-base-uncased" in lines[3]


def test_what_the_hub_does_not_have(hub, tmp_path):
    flags = [
        "--dataset someone/nothing",
        f"--dataset {DATASET}:cooked",
        f"--dataset {DATASET}:other",
        "--tokenizer someone/nothing",
        "--variant finetune-conventional --init someone/nothing",
    ]
    started = time.perf_counter()
    with serve_hub(hub) as endpoint:
        ran = python(MISTAKES.format(flags=flags), HF_HOME=tmp_path, HF_ENDPOINT=endpoint)
    assert time.perf_counter() - started < 60
    assert [line.split()[0] for line in ran.stdout.splitlines()] == ["2"] * len(flags), ran.stderr
    lines = ran.stderr.splitlines()
    assert len(lines) == len(flags), ran.stderr
    absent = "someone/nothing: no such folder, and the Hub has no such repository"
    for line, wanted in zip(
        lines, [absent, "'cooked'", "no column 'text'; it has words", absent, absent], strict=True
    ):
        assert line.startswith("error: --") and wanted in line


@pytest.mark.slow
def test_a_download_that_is_cut_off_ends_in_a_line_and_works_when_tried_again(hub, tmp_path):
    init = ["--variant finetune-conventional --dataset absent --init " + MODEL]
    text = [f"--dataset {DATASET}:raw"]
    lost = {".safetensors", ".parquet"}
    with serve_hub(hub, lost) as endpoint:
        cut_off = python(MISTAKES.format(flags=init + text), HF_HOME=tmp_path, HF_ENDPOINT=endpoint)
        lost.clear()
        ran = python(USE, HF_HOME=tmp_path, HF_ENDPOINT=endpoint)
    for line, flag in zip(cut_off.stderr.splitlines(), ("--init", "--dataset"), strict=True):
        assert line.startswith(f"error: {flag} someone/") and "the Hub did not give it: " in line
    for answer in cut_off.stdout.splitlines():
        status, seconds = answer.split()
        assert status == "2" and float(seconds) < 30
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(USED)
