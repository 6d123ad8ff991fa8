"""A dry run says what a real one does, from less."""

import json
import socket
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bwsk_jax import bert
from bwsk_jax.train import main
from bwsk_jax.training.data import sources
from bwsk_jax.training.recipe import RECIPES, Recipe
from bwsk_jax.training.setup import StepSetup
from tests.support.compilers import on_tpu

STEPS = ["--max-steps", "2", "--seq-len", "16", "--batch-size", "4"]
WORDS = ("the", "layer", "inverts", "what", "it", "can", "and", "saves", "memory")
KEYS = [
    *("target", "target_memory_mb", "fits", "estimated_cycles"),
    *("compiled_peak_mb", "floor_mb", "saved_mb", "residual_mb", "overhead", "parameters"),
    *("max_bytes", "steps_per_epoch"),
]


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    generator = np.random.default_rng(0)
    for split, lines in (("train", 100), ("valid", 10), ("test", 10)):
        text = "\n".join(" ".join(generator.choice(WORDS, 12)) for _ in range(lines))
        (folder / f"{split}.txt").write_text(text, "utf-8")
    return str(folder)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """A model without weights, whose tokenizer is not the default one."""
    folder = tmp_path_factory.mktemp("model")
    bert.save_tokenizer(bert.train_tokenizer([" ".join(WORDS)], vocab_size=64), folder)
    config = bert.BertConfig(
        vocab_size=len(bert.load_tokenizer(folder)),
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    (folder / "config.json").write_text(json.dumps(config.to_hf()))
    return str(folder)


@pytest.fixture
def no_network(monkeypatch):
    def refused(*_):
        raise AssertionError("a dry run used the network")

    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setattr(socket.socket, "connect", refused)


@pytest.fixture
def dry(no_network, tmp_path, capsys):
    """What a dry run prints, and the notes beside it; it writes nothing."""

    def run(*flags):
        main(["--dry-run", "--out", str(tmp_path / "dry"), *flags])
        captured = capsys.readouterr()
        assert list(tmp_path.rglob("dry*")) == []
        return json.loads(captured.out), captured.err.splitlines()

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        pytest.param("--variant scratch-conventional", marks=pytest.mark.slow),
        "--variant scratch-reversible --precision fp16 --grad-accum 2 --max-overhead inf",
    ],
)
def test_the_peak_is_that_of_the_real_run(flags, dry, text_folder, tmp_path, capsys):
    flags = [*flags.split(), "--dataset", text_folder, *STEPS]
    main([*flags, "--out", str(tmp_path / "real")])
    (file,) = tmp_path.glob("real/*/training_results.json")
    real = json.loads(file.read_text())
    capsys.readouterr()

    found, notes = dry(*flags)
    assert list(found) == KEYS and notes == []
    assert found["compiled_peak_mb"] == real["compiled_peak_mb"]
    assert found["parameters"] == real["parameters"]
    assert found["floor_mb"] == pytest.approx(4 * 4 * real["parameters"] / 1e6, abs=1e-5)
    assert found["steps_per_epoch"] == 1200 // 16 // (4 * real["settings"]["grad_accum"])
    if real["plan"] is None:
        assert found["saved_mb"] == found["residual_mb"] > 0 and found["overhead"] == 0
    else:
        assert found["saved_mb"] == 2 * real["plan"]["saved_bytes"] / 1e6 < found["residual_mb"]
        assert found["residual_mb"] == 2 * real["plan"]["residual_bytes"] / 1e6
        assert found["overhead"] == real["plan"]["overhead"]


@pytest.fixture
def uncompiled(monkeypatch):
    """Compiling takes seconds, and sizes do not need it."""
    program = SimpleNamespace(
        target=SimpleNamespace(name="none", memory=1), fits=True, cycles=0, peak_bytes=1
    )
    monkeypatch.setattr(StepSetup, "compile", lambda self: program)


@pytest.fixture
def mini(monkeypatch):
    """The preset `mini`, whose text and tokenizer are on the Hub, made tiny."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    monkeypatch.setitem(bert.PRESETS, "mini", bert.BertConfig(vocab_size=99, **sizes))
    monkeypatch.setitem(RECIPES["reference"], "mini", Recipe(seq_len=16, batch_size=2))


def test_what_is_on_the_hub_is_done_without(dry, uncompiled, mini):
    found, notes = dry("--variant", "scratch-reversible", "--preset", "mini")
    assert found["steps_per_epoch"] is None and found["saved_mb"] < found["residual_mb"]
    assert notes == ["note: google-bert/bert-base-uncased is not at hand: a vocabulary of 99 is assumed"]


def test_the_default_model_is_known_without_having_it(dry, uncompiled, monkeypatch, text_folder):
    sizes = {"hidden_size": 16, "num_hidden_layers": 5, "num_attention_heads": 2, "intermediate_size": 32}
    monkeypatch.setitem(bert.PRESETS, "base", bert.BertConfig(vocab_size=77, **sizes))
    found, notes = dry("--variant", "finetune-conventional", "--dataset", text_folder, *STEPS)
    assert 77 * 16 < found["parameters"] < 30_000 and found["steps_per_epoch"] is None
    assert notes == [
        "note: google-bert/bert-base-uncased is not at hand: the sizes are those of --preset base",
        "note: google-bert/bert-base-uncased is not at hand: a vocabulary of 77 is assumed",
    ]


def test_a_model_needs_its_configuration_only(dry, uncompiled, model_folder, text_folder):
    flags = ["--variant", "finetune-analyzed", "--init", model_folder, "--dataset", text_folder, *STEPS]
    found, notes = dry(*flags)
    config = bert.load_config(model_folder)
    assert config.num_hidden_layers == 3 and notes == []
    assert found["steps_per_epoch"] is not None and found["saved_mb"] == found["residual_mb"]


def test_a_model_in_the_cache_is_found_by_its_name(dry, uncompiled, monkeypatch, model_folder):
    monkeypatch.setattr(sources, "cached_folder", lambda name, files: Path(model_folder))
    flags = ["--variant", "finetune-conventional", "--init", "some/bert", "--dataset", "some/text", *STEPS]
    named, notes = dry(*flags)
    local, _ = dry(*flags[:2], "--init", model_folder, *flags[4:])
    assert named == local and notes == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--variant scratch-reversable", "did you mean 'scratch-reversible'"),
        ("--variant finetune-conventional --init some/bert", "--init some/bert: no such folder, not in the"),
        ("--variant finetune-conventional --init {tmp}/absent", "--init {tmp}/absent: no such folder"),
        ("--tokenizer {tmp}/vocab.txt", "--tokenizer {tmp}/vocab.txt: no such"),
        ("--dataset {tmp}/absent", "no such folder"),
        ("--seq-len 4000", "128 positions"),
        ("--batch-size 9999", "fewer than one step of --batch-size 9999"),
        ("--max-bytes 1 --batch-size 4", "below the least possible"),
        ("--max-overhead -1", "must not be negative"),
        ("--fit 8GiB --max-bytes 1", "--max-bytes and --fit are both given"),
        ("--fit 8GiB --max-overhead 1", "--max-overhead and --fit are both given"),
        ("--fit 8gigs", "--fit 8gigs: expected a number of bytes"),
        ("--fit 8GiB --variant scratch-conventional", "--fit limits"),
        ("--fit 8GiB --variant scratch-analyzed", "scratch-analyzed follows none"),
    ],
)
def test_mistakes_end_in_one_line(flags, message, no_network, text_folder, tmp_path, capsys):
    defaults = ["--dataset", text_folder, "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as ended:
        main(["--dry-run", *defaults, *flags.format(tmp=tmp_path).split()])
    assert ended.value.code == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ") and message.format(tmp=tmp_path) in line
    assert captured.out == "" and list(tmp_path.iterdir()) == []


def test_the_limit_that_fits_is_told(dry, uncompiled, text_folder):
    flags = ["--variant", "scratch-reversible", "--dataset", text_folder, *STEPS]
    found, _ = dry(*flags, "--fit", "8GiB")
    assert found["overhead"] == 0 and found["saved_mb"] == 2 * found["max_bytes"] / 1e6


# --- another machine ---------------------------------------------------------------------------------------


@on_tpu
def test_a_machine_that_is_not_here_is_asked_by_its_name(dry, text_folder):
    flags = ["--variant", "scratch-reversible", "--precision", "bf16", "--dataset", text_folder, *STEPS]
    here, _ = dry(*flags)
    there, _ = dry(*flags, "--target", "v5e")
    assert (here["target"], there["target"]) == ("this machine", "v5e")
    assert here["estimated_cycles"] is None and there["estimated_cycles"] > 0
    assert there["target_memory_mb"] == pytest.approx(15.75 * 2**30 / 1e6) and there["fits"]
    assert there["compiled_peak_mb"] > there["floor_mb"] == here["floor_mb"]


def test_this_machine_trains_for_no_other(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--target", "v5e", "--out", str(tmp_path / "out")])
    assert ended.value.code == 2 and not (tmp_path / "out").exists()
    assert "error: --target v5e is another machine than this one: add --dry-run" in capsys.readouterr().err


def test_a_machine_that_nobody_knows_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--dry-run", "--target", "v5f", "--out", str(tmp_path / "out")])
    assert ended.value.code == 2
    assert "error: --target v5f: there is no target 'v5f': did you mean v5" in capsys.readouterr().err
