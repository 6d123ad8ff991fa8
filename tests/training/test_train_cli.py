import json
import os
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import bwsk_jax
from bwsk_jax import bert
from bwsk_jax.train import main
from bwsk_jax.training.flags import Flags
from bwsk_jax.training.loop.checkpoints import Checkpoints
from bwsk_jax.training.loop.interruption import STOPPED
from bwsk_jax.training.progress import Progress, TaskProgress
from bwsk_jax.training.resolve import prepare
from bwsk_jax.variants import VARIANTS
from tests.support.events import read_events
from tests.support.texts import write_text

REFERENCE_KEYS = [
    *("model_slug", "experiment", "mode", "final_train_loss", "best_val_metric", "test_metric"),
    *("metric_name", "epochs_completed", "total_steps", "early_stopped", "wall_time_s", "peak_memory_mb"),
    *("loss_curve", "val_curve", "nan_count", "erasure_budget", "parallelism_ratio"),
]
OWN_KEYS = {
    *("val_metric_name", "final_val_metric", "final_val_unigram_perplexity", "test_unigram_perplexity"),
    *(
        "unigram_perplexity",
        "compiled_peak_mb",
        "step_time_ms",
        "tokens_per_s",
        "plan",
        "classification",
        "versions",
        "command",
    ),
}
ROOT_KEYS = [
    *("model_name", "slug", "hf_id", "arch_family", "arch_type"),
    *("params_m", "s_ratio", "k_ratio", "runs", "timestamp"),
]


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory):
    return str(write_text(tmp_path_factory.mktemp("text")))


@pytest.fixture(scope="module")
def finished(text_folder, tmp_path_factory):
    """Three scratch runs of 4 steps in one output folder, and a fine-tuning run from one of them."""
    out = tmp_path_factory.mktemp("runs")
    flags = ["--dataset", text_folder, "--out", str(out), "--seq-len", "16", "--batch-size", "4"]
    flags += ["--max-steps", "4", "--lr", "1e-2"]
    for mode in ("conventional", "analyzed", "reversible"):
        main(["--variant", f"scratch-{mode}", *flags])
    init = str(out / "scratch-conventional")
    main(["--variant", "finetune-bwsk-reversible", "--init", init, "--precision", "bf16", *flags])
    return out


def results(finished, variant):
    return json.loads((finished / variant / "training_results.json").read_text())


def test_results_have_the_reference_keys_and_ours(finished):
    for variant in ("scratch-conventional", "scratch-analyzed", "scratch-reversible", "finetune-reversible"):
        found = results(finished, variant)
        assert list(found)[: len(REFERENCE_KEYS)] == REFERENCE_KEYS
        assert set(found) >= OWN_KEYS
        assert found["mode"] == VARIANTS[variant].mode
        assert found["total_steps"] == len(found["loss_curve"]) == 4
        assert found["best_val_metric"] == min(value for _, value in found["val_curve"])
        assert found["metric_name"] == found["val_metric_name"] == "pseudo_perplexity"
        assert found["final_val_metric"] == found["best_val_metric"]
        assert found["final_val_unigram_perplexity"] == found["unigram_perplexity"]
        assert found["compiled_peak_mb"] > 0 and found["tokens_per_s"] > 0
        for key in ("plan", "classification", "erasure_budget", "parallelism_ratio"):
            assert (found[key] is None) == (variant == "scratch-conventional")
    plan = results(finished, "scratch-reversible")["plan"]
    assert 0 < plan["saved_bytes"] < plan["residual_bytes"] and plan["table"]


def test_results_hold_the_shares_of_what_preserves_and_erases(finished):
    """Without dropout, of the demo's 2 layers and its head only the 3 activations erase by the reference."""
    found = results(finished, "scratch-analyzed")
    leaves = found["classification"]["reference"]["leaf_modules"]
    assert leaves["K"] == 3 and found["erasure_budget"] == 3 / sum(leaves.values())
    assert found["erasure_budget"] + found["parallelism_ratio"] == 1
    assert found["classification"]["strict"]["leaf_modules"]["K"] > 3
    root = json.loads((finished / "results.json").read_text())
    assert root["k_ratio"] is not None


def test_analyzed_is_conventional_bit_for_bit(finished):
    conventional, analyzed = (results(finished, f"scratch-{mode}") for mode in ("conventional", "analyzed"))
    for curve in ("loss_curve", "val_curve"):
        assert conventional[curve] == analyzed[curve]
    weights = [
        (finished / f"scratch-{mode}" / "model.safetensors").read_bytes()
        for mode in ("conventional", "analyzed")
    ]
    assert weights[0] == weights[1]


def test_reversible_follows_conventional(finished):
    conventional, reversible = (
        results(finished, f"scratch-{mode}") for mode in ("conventional", "reversible")
    )
    for curve in ("loss_curve", "val_curve"):
        np.testing.assert_allclose(reversible[curve], conventional[curve], rtol=1e-3)


def test_all_modes_have_one_parameter_tree(text_folder):
    trees = set()
    for mode in ("conventional", "analyzed", "reversible"):
        setup = prepare(Flags(variant=f"scratch-{mode}", dataset=text_folder, seq_len=16))
        trees.add(str(jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), setup.params)))
    assert len(trees) == 1


def test_transformers_loads_the_export(finished):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    for variant in ("scratch-reversible", "finetune-reversible"):
        model, info = AutoModelForMaskedLM.from_pretrained(
            finished, subfolder=variant, output_loading_info=True
        )
        assert not any(info.values())
        tokenizer = AutoTokenizer.from_pretrained(finished, subfolder=variant)
        assert len(tokenizer) == model.config.vocab_size

        ids = tokenizer("memory stays [MASK]", return_tensors="pt")["input_ids"]
        with torch.no_grad():
            expected = model.eval()(ids).logits.numpy()
        config, params = bert.load_pretrained(finished / variant)
        np.testing.assert_allclose(bert.forward(config, params, ids.numpy()), expected, atol=2e-5)


def test_root_gathers_the_variants(finished):
    root = json.loads((finished / "results.json").read_text())
    assert list(root) == ROOT_KEYS
    assert [(run["experiment"], run["mode"]) for run in root["runs"]] == [
        ("finetune", "bwsk_reversible"),
        ("scratch", "conventional"),
        ("scratch", "bwsk_analyzed"),
        ("scratch", "bwsk_reversible"),
    ]
    card = (finished / "README.md").read_text()
    assert card.startswith("---\n") and "## Fine-tune" in card and "## From scratch" in card
    assert "Memory saved by *reversible* against *conventional*" in card
    assert (finished / "scratch-reversible" / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_the_closing_table_is_followed_by_the_loading_code(text_folder, tmp_path, capsys):
    flags = ["--dataset", text_folder, "--seq-len", "16", "--batch-size", "4", "--max-steps", "1"]
    main(["--variant", "scratch-conventional", "--out", str(tmp_path), *flags])
    output = capsys.readouterr().out
    assert "step 1/1  loss " in output
    assert "validation pseudo-perplexity" in output
    *_, imports, load = output.splitlines()
    assert imports == "from transformers import AutoModelForMaskedLM, AutoTokenizer"
    assert f"from_pretrained('{tmp_path}', subfolder='scratch-conventional')" in load


def test_a_run_that_was_cut_short_goes_on_bit_for_bit(finished, text_folder, tmp_path, monkeypatch, capsys):
    """Killed after the save at step 2, then told to terminate at step 3, then left alone; all in one log."""
    log = tmp_path / "log"
    flags = ["--log-dir", str(log)]
    flags += ["--variant", "scratch-reversible", "--dataset", text_folder, "--out", str(tmp_path)]
    flags += ["--seq-len", "16", "--batch-size", "4", "--max-steps", "4", "--lr", "1e-2", "--save-every", "0"]
    save = Checkpoints.save

    def save_and_die(self, state, history, *, improved):
        save(self, state, history, improved=improved)
        if history.total_steps == 2:
            raise MemoryError

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(Checkpoints, "save", save_and_die)
        main(flags)
    assert not (tmp_path / "scratch-reversible" / "training_results.json").exists()
    capsys.readouterr()

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(Progress, "step", lambda self, step, loss: os.kill(os.getpid(), signal.SIGTERM))
        main(flags)
    assert ended.value.code == 143
    captured = capsys.readouterr()
    assert "resuming after step 2/4" in captured.out
    assert captured.err == "SIGTERM at step 3: saved; the same command continues from here\n"

    main(flags)
    assert "resuming after step 3/4" in capsys.readouterr().out
    for curve in ("loss_curve", "val_curve", "test_metric"):
        assert (
            results(tmp_path, "scratch-reversible")[curve] == results(finished, "scratch-reversible")[curve]
        )
    weights = [
        (root / "scratch-reversible" / "model.safetensors").read_bytes() for root in (tmp_path, finished)
    ]
    assert weights[0] == weights[1]

    logged, written = read_events(log / "scratch-reversible"), results(tmp_path, "scratch-reversible")
    for tag, curve in (
        ("train/loss", written["loss_curve"]),
        ("validation/pseudo_perplexity", written["val_curve"]),
        ("test/pseudo_perplexity", [[4, written["test_metric"]]]),
    ):
        assert [step for step, _ in logged[tag]] == [step for step, _ in curve]
        np.testing.assert_allclose(logged[tag], curve, rtol=1e-6)
    assert logged["train/skipped_steps"] == [(step, 0) for step in range(1, 5)]
    assert logged["train/learning_rate"][0] == (1, pytest.approx(1e-2))
    assert len(logged["train/tokens_per_s"]) == 4


def test_a_runs_options_fed_back_reproduce_it_bit_for_bit(finished, tmp_path):
    main(["--config", str(finished / "finetune-reversible" / "options.json"), "--out", str(tmp_path)])
    for curve in ("loss_curve", "val_curve", "test_metric"):
        assert (
            results(tmp_path, "finetune-reversible")[curve] == results(finished, "finetune-reversible")[curve]
        )
    roots = (tmp_path, finished)
    weights = [(root / "finetune-reversible" / "model.safetensors").read_bytes() for root in roots]
    assert weights[0] == weights[1]


def test_bert_s_masks_and_the_exact_metric_outlive_interruptions(text_folder, tmp_path, monkeypatch, capsys):
    """Told to terminate at step 1, then in the exact test, then left alone."""
    flags = ["--variant", "scratch-conventional", "--dataset", text_folder, "--seq-len", "16"]
    flags += ["--batch-size", "4", "--max-steps", "4", "--save-every", "0"]
    flags += ["--masking", "bert", "--eval-metric", "exact"]
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    main([*flags, "--out", str(unbroken)])
    assert "exact test" in capsys.readouterr().out
    whole = results(unbroken, "scratch-conventional")
    assert (whole["settings"]["masking"], whole["settings"]["eval_metric"]) == ("bert", "exact")
    assert whole["metric_name"] == "exact_pseudo_perplexity"
    assert whole["best_val_metric"] == min(value for _, value in whole["val_curve"])
    assert 1 < whole["final_val_metric"] != whole["best_val_metric"]
    assert 1 < whole["final_val_unigram_perplexity"] != whole["unigram_perplexity"]

    def terminate(*_):
        os.kill(os.getpid(), signal.SIGTERM)

    def terminate_in_the_test(self, rows):
        if self.label == "exact test":
            terminate()

    for cls, name, patched, said in (
        (Progress, "step", terminate, "at step 1: saved; the same command continues from here"),
        (TaskProgress, "advance", terminate_in_the_test, STOPPED),
    ):
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
            patch.setattr(cls, name, patched)
            main([*flags, "--out", str(broken)])
        assert ended.value.code == 143
        assert capsys.readouterr().err == f"SIGTERM {said}\n"
        assert not (broken / "scratch-conventional" / "training_results.json").exists()
    main([*flags, "--out", str(broken)])
    again = results(broken, "scratch-conventional")
    for key in ("loss_curve", "val_curve", "test_metric", "final_val_metric"):
        assert again[key] == whole[key]
    assert "| `exact_pseudo_perplexity` |" in (broken / "README.md").read_text()


def test_a_finished_run_is_reported_again_and_another_one_refused(finished, text_folder, capsys):
    flags = ["--variant", "scratch-conventional", "--dataset", text_folder, "--out", str(finished)]
    flags += ["--seq-len", "16", "--max-steps", "4", "--lr", "1e-2"]
    files = [file for file in (finished / "scratch-conventional").rglob("*") if file.is_file()]
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in files}
    main([*flags, "--batch-size", "4"])
    captured = capsys.readouterr().out
    assert "is finished" in captured and "test pseudo-perplexity" in captured

    with pytest.raises(SystemExit) as ended:
        main([*flags, "--batch-size", "5", "--seed", "1"])
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert "holds another run: --batch-size was 4, now 5; --seed was 0, now 1: give another --out" in message
    assert before == {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in files}


def test_changed_text_and_unknown_runs_are_refused(finished, text_folder, tmp_path, capsys):
    copied = tmp_path / "text"
    shutil.copytree(text_folder, copied)
    flags = ["--variant", "scratch-conventional", "--dataset", str(copied), "--out", str(tmp_path)]
    flags += ["--seq-len", "16", "--batch-size", "4", "--max-steps", "4", "--lr", "1e-2"]
    shutil.copytree(finished / "scratch-conventional", tmp_path / "scratch-conventional")
    options = tmp_path / "scratch-conventional" / "options.json"
    options.write_text(options.read_text().replace(text_folder, str(copied)))

    def refused():
        with pytest.raises(SystemExit) as ended:
            main(flags)
        assert ended.value.code == 2
        return capsys.readouterr().err

    (copied / "test.txt").write_text("the layer " * 100)
    assert "text or vocabulary behind --dataset and --tokenizer has changed" in refused()
    options.write_text("{")
    assert "options.json is damaged" in refused()
    options.unlink()
    assert "holds a run without options.json" in refused()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--variant scratch-reversable", "did you mean 'scratch-reversible'"),
        ("--dataset {tmp}/absent", "no such folder"),
        ("--dataset {tmp}", "train.txt, valid.txt, test.txt missing"),
        (
            "--variant finetune-conventional",
            "--init google-bert/bert-base-uncased: no such folder, not in the",
        ),
        ("--preset mini", "--tokenizer google-bert/bert-base-uncased: no such folder, not in the"),
        ("--variant finetune-conventional --init {tmp}/absent", "--init {tmp}/absent: no such folder"),
        ("--variant finetune-conventional --init {tmp}", "{tmp}"),
        ("--init {tmp}", "scratch-conventional starts from random parameters"),
        ("--tokenizer {tmp}/vocab.txt", "--tokenizer {tmp}/vocab.txt: no such"),
        ("--tokenizer {tmp}", "{tmp}"),
        ("--max-overhead 0.1 --max-bytes 10", "both given"),
        ("--max-bytes 10", "scratch-conventional has none"),
        ("--variant scratch-reversible --max-bytes 1", "bytes"),
        ("--seq-len 4000", "128 positions"),
        ("--seq-len 128 --dataset {short}", "fewer than one window of 128"),
        ("--batch-size 9999", "fewer than one step of --batch-size 9999"),
        ("--preset deom", "--preset deom is not one of demo, mini, base: did you mean 'demo'?"),
        ("--precision fp8", "did you mean 'fp16'?"),
        ("--device cuda", "--device cuda is not one of auto, cpu, gpu: did you mean "),
        ("--dataset {empty}", "--dataset {empty}: its validation split is empty"),
        ("--dataset {latin}", "{latin}/test.txt is not UTF-8: byte 0xe9 in line 2"),
        ("--dataset {unreadable}", "{unreadable}/train.txt cannot be read: Input/output error"),
        ("--config {tmp}/absent.json", "--config {tmp}/absent.json cannot be read: No such file"),
        ("--batch-size 0", "--batch-size 0 must be positive"),
        ("--seq-len 0", "--seq-len 0 must be positive"),
        ("--grad-accum -1", "--grad-accum -1 must be positive"),
        ("--epochs 10000000000", "steps, more than 2147483647"),
        ("--epochs 0", "--epochs 0 must be positive"),
        ("--max-steps 0", "--max-steps 0 must be positive"),
        ("--max-bytes 0", "--max-bytes 0 must be positive"),
        ("--save-every -1", "--save-every -1.0 must not be negative"),
        ("--save-every nan", "--save-every nan must not be negative"),
        ("--max-overhead nan", "--max-overhead nan must not be negative"),
        ("--lr -1", "--lr -1.0 must be positive"),
        ("--lr nan", "--lr nan must be positive"),
        ("--lr inf", "--lr inf must be finite"),
        ("--seed -1", "--seed -1 must not be negative"),
        ("--seed 9223372036854775808", "--seed 9223372036854775808 must be less than"),
        ("--out /proc/new", "--out /proc/new cannot be written: "),
        ("--log-dir {file}", "--log-dir {file} cannot be written: Not a directory"),
        ("--out {file}", "--out {file} cannot be written: Not a directory"),
        ("--out {file}/below", "--out {file}/below cannot be written: Not a directory"),
        ("--out {project}", "is no model card"),
    ],
)
def test_mistakes_end_in_one_line_and_write_nothing(flags, message, text_folder, tmp_path, capsys):
    short = tmp_path / "short"
    short.mkdir()
    for split in ("train", "valid", "test"):
        (short / f"{split}.txt").write_text("too short")
    for name in ("empty", "latin", "unreadable"):
        shutil.copytree(text_folder, tmp_path / name)
    (tmp_path / "empty" / "valid.txt").write_text(" \n")
    (tmp_path / "latin" / "test.txt").write_bytes("a caf\n\xe9".encode("latin-1"))
    (tmp_path / "unreadable" / "train.txt").unlink()
    (tmp_path / "unreadable" / "train.txt").symlink_to("/proc/self/mem")
    project = tmp_path / "project"
    project.mkdir()
    (project / "README.md").write_text("# A project")
    (tmp_path / "file").write_text("")
    before = sorted(tmp_path.rglob("*"))
    places = {name: tmp_path / name for name in ("short", "empty", "latin", "unreadable", "project", "file")}
    places["tmp"] = tmp_path

    defaults = ["--variant", "scratch-conventional", "--dataset", text_folder, "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as ended:
        main([*defaults, *flags.format(**places).split()])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message.format(**places) in line
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--batchsize 3", "Unrecognized options: --batchsize, 3 (did you mean --batch-size?)"),
        ("nonsense", "Unrecognized options: nonsense"),
        ("--seq-len 1.5", "Error parsing --seq-len"),
        ("--out", "Missing value for argument '--out'"),
    ],
)
def test_what_is_no_flag_or_no_number_ends_in_one_line(flags, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(flags.split())
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {message}") and said.count("\n") == 1
    assert not any(tmp_path.iterdir())


def test_a_vocabulary_larger_than_the_model_is_refused(finished, text_folder, tmp_path, capsys):
    init = finished / "scratch-conventional"
    config, _ = bert.load_pretrained(init)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(config.vocab_size))]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary))
    flags = f"--variant finetune-conventional --init {init} --tokenizer {tmp_path}/vocab.txt"
    with pytest.raises(SystemExit) as ended:
        main([*flags.split(), "--dataset", text_folder, "--out", str(tmp_path / "out")])
    assert ended.value.code == 2
    assert "they do not belong together" in capsys.readouterr().err


@pytest.fixture
def damaged(finished, text_folder, tmp_path, capsys):
    """Fine-tune from a copy of a finished run that a function has spoilt; the line that this ends in."""

    def run(spoil, *flags):
        init = shutil.copytree(finished / "scratch-conventional", tmp_path / "init")
        spoil(init)
        variant = ["--variant", "finetune-conventional", "--init", str(init), "--dataset", text_folder]
        with pytest.raises(SystemExit) as ended:
            main([*variant, "--out", str(tmp_path / "out"), *flags])
        assert ended.value.code == 2 and not (tmp_path / "out").exists()
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and str(init) in line
        return line

    return run


def edit_config(**values):
    def spoil(folder):
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return spoil


def cut(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (cut, "model.safetensors cannot be read as safetensors"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"no"), "cannot be read as safetensors"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has neither model.safetensors nor"),
        (edit_config(model_type="roberta"), "model_type is 'roberta', only 'bert' is supported"),
        (edit_config(hidden_act="mish"), "hidden_act is 'mish', expected one of gelu"),
        (edit_config(intermediate_size=64), "in 6 places: shape: bert.encoder.layer.0"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "holds no tokenizer"),
    ],
)
def test_a_damaged_init_ends_in_one_line(damaged, spoil, message):
    assert message in damaged(spoil)


def test_all_tensors_that_do_not_fit_are_in_the_line(damaged):
    line = damaged(edit_config(intermediate_size=64))
    for layer in (0, 1):
        for name in ("intermediate.dense.weight", "intermediate.dense.bias", "output.dense.weight"):
            assert f"bert.encoder.layer.{layer}.{name} is [" in line


def test_a_vocabulary_much_smaller_than_the_model_is_refused(damaged, tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\n")
    line = damaged(lambda folder: None, "--tokenizer", str(tmp_path / "vocab.txt"))
    assert "has 6 pieces, but the model in" in line


def test_an_encoder_gets_a_head_and_the_run_says_so(finished, text_folder, tmp_path, capsys):
    init = shutil.copytree(finished / "scratch-conventional", tmp_path / "init")
    tensors = load_file(init / "model.safetensors")
    save_file({n: t for n, t in tensors.items() if not n.startswith("cls.")}, init / "model.safetensors")
    flags = ["--variant", "finetune-conventional", "--init", str(init), "--dataset", text_folder]
    main([*flags, "--out", str(tmp_path / "out"), "--seq-len", "16", "--batch-size", "4", "--max-steps", "1"])
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert notes == [f"note: {init} has no masked-LM head: its 5 tensors start from --seed 0"]


def test_help_imports_nothing_slow():
    code = (
        "import sys; from bwsk_jax.train import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "slow = {'transformers', 'tokenizers', 'datasets', 'orbax', 'matplotlib', 'huggingface_hub'}\n"
        "assert not slow & set(sys.modules), slow & set(sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "--max-overhead" in ran.stdout


def test_reversible_scan_gets_the_limits(text_folder):
    setup = prepare(
        Flags(variant="scratch-reversible", dataset=text_folder, seq_len=16, max_overhead=float("inf"))
    )
    assert setup.scan.func is bwsk_jax.reversible_scan
    assert setup.scan.keywords == {"max_overhead": float("inf"), "max_bytes": None}
