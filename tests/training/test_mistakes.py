"""Mistakes of the user end in one line and exit status 2, and nothing is written."""

import shlex
import shutil
import subprocess
import sys

import pytest

from bwsk_jax.train import main


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--variant scratch-reversable", "did you mean 'scratch-reversible'"),
        ("--dataset {tmp}/absent", "no such folder"),
        ("--dataset {tmp}", "{tmp}: no train.txt there, and no .txt, .jsonl, .csv or .parquet files"),
        ("--text-column body", "--text-column body: --dataset {text} is plain text, without columns"),
        ("--text-column ''", "--text-column '' is empty"),
        ("--windows docs", "--windows docs is not one of packed, documents: did you mean 'documents'?"),
        ("--windows documents --seq-len 2", "--windows documents needs a --seq-len of at least 3"),
        ("--dataset {few}", "--dataset {few}: its training split has too few rows to spare one in 20: the"),
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
        ("--recipe best_one", "--recipe best_one is not one of reference, best: did you mean 'best'?"),
        ("--variant finetune-reversible --init {tmp} --positions drawn", "--positions is of a model from"),
        ("--recipe reference", "--recipe reference is for --preset mini and base"),
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
        ("--mask-rate 0", "--mask-rate 0.0 must be positive"),
        ("--mask-rate 1", "--mask-rate 1.0 must be less than 1"),
        ("--warmup -0.1", "--warmup -0.1 must not be negative"),
        ("--dropout 1", "--dropout 1.0 must be less than 1"),
        ("--beta2 1", "--beta2 1.0 must be less than 1"),
        ("--weight-decay inf", "--weight-decay inf must be finite"),
        ("--clip 0", "--clip 0.0 must be positive"),
        ("--patience 0", "--patience 0 must be positive"),
        ("--validate-every 0", "--validate-every 0 must be positive"),
        ("--schedule cosin", "--schedule cosin is not one of cosine, linear, exponential, constant: did you"),
        ("--seed -1", "--seed -1 must not be negative"),
        ("--seed 9223372036854775808", "--seed 9223372036854775808 must be less than"),
        ("--out /proc/new", "--out /proc/new cannot be written: "),
        ("--log-dir {file}", "--log-dir {file} cannot be written: Not a directory"),
        ("--out {file}", "--out {file} cannot be written: Not a directory"),
        ("--out {file}/below", "--out {file}/below cannot be written: Not a directory"),
        ("--dataset ''", "--dataset '' is empty: give a value, or leave it out"),
        ("--out ''", "--out '' is empty"),
        ("--config ''", "--config '' is empty"),
        ("--out '~/x'", "--out '~/x' begins with a ~ that no shell has replaced: give /"),
        ("--config '~/x'", "--config '~/x' begins with a ~"),
        ("--out {loop}", "--out {loop} cannot be written: Too many levels of symbolic links: give another"),
        ("--out {loop}/below", "--out {loop}/below cannot be written: Too many levels of symbolic links"),
        ("--log-dir {loop}", "--log-dir {loop} cannot be written: Too many levels of symbolic links"),
        ("--dataset {loop}", "--dataset {loop} is a link that leads nowhere: give what it should lead to"),
        ("--tokenizer {loop}", "--tokenizer {loop} is a link that leads nowhere"),
        ("--variant finetune-conventional --init {loop}", "--init {loop} is a link that leads nowhere"),
        ("--config {loop}", "--config {loop} cannot be read: Too many levels of symbolic links"),
        ("--variant finetune-conventional --init {file}", "--init {file} is a file: give the folder that"),
        ("--variant finetune-conventional --init {lora}", "--init {lora} holds a LoRA adapter and no whole"),
        ("--out {project}", "README.md was not written by this program"),
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
    (tmp_path / "few").mkdir()
    (tmp_path / "few" / "train.txt").write_text("a row\nand another")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "lora").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / "lora" / name).write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    places = {path.name: path for path in tmp_path.iterdir()} | {"tmp": tmp_path, "text": text_folder}

    defaults = ["--variant", "scratch-conventional", "--dataset", text_folder, "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as ended:
        main([*defaults, *shlex.split(flags.format(**places))])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message.format(**places) in line
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--batchsize 3", "Unrecognized options: --batchsize, 3 (did you mean --batch-size?)"),
        ("--learning-rate 1e-3", "unknown flag --learning-rate: did you mean --lr?"),
        (
            "--per-device-train-batch-size=8",
            "unknown flag --per-device-train-batch-size: did you mean --batch",
        ),
        ("nonsense", "Unrecognized options: nonsense"),
        ("--seq-len 1.5", "--seq-len 1.5 must be an integer"),
        ("--batch-size 2.5", "--batch-size 2.5 must be an integer"),
        ("--save-every x", "--save-every x must be a number"),
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


def test_help_imports_nothing_slow():
    code = (
        "import sys; from bwsk_jax.train import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "slow = {'jax', 'numpy', 'scipy', 'transformers', 'tokenizers', 'datasets', 'orbax', 'matplotlib'}\n"
        "assert not slow & set(sys.modules), slow & set(sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "--max-overhead" in ran.stdout


def test_help_shows_what_each_preset_has(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for part in (
        "Tokens per window. (default: demo 64, mini and base 512)",
        "(default: from scratch demo 0.0015, mini and base 0.0003; fine-tuning 5e-05)",
        "on attention probabilities. (default: from scratch demo 0.0, mini and base 0.1; fine-tuning the",
        "after which training stops. (default: demo 8, mini and base 3)",
    ):
        assert part in said
    assert "None" not in said
