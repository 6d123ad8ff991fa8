"""A run that was cut short goes on bit for bit; a finished one is reported; another one is refused."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
from pathlib import Path

import jax
import numpy as np
import pytest

from bwsk_jax import bert
from bwsk_jax.locking import locked
from bwsk_jax.train import main
from bwsk_jax.training.loop.checkpoints import Checkpoints
from bwsk_jax.training.progress import Progress, TaskProgress
from bwsk_jax.training.step.optimizer import make_optimizer
from bwsk_jax.training.step.train_step import initial_state
from tests.support.events import read_events
from tests.support.runs import FLAGS, killed_after_save, results


def test_a_run_that_was_cut_short_goes_on_bit_for_bit(finished, text_folder, tmp_path, monkeypatch, capsys):
    """Killed after the save at step 2, then told to terminate at step 3, then left alone; all in one log."""
    log = tmp_path / "log"
    flags = ["--log-dir", str(log)]
    flags += ["--variant", "scratch-reversible", "--dataset", text_folder, "--out", str(tmp_path)]
    flags += [*FLAGS, "--save-every", "0"]
    with killed_after_save(monkeypatch, 2):
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


@pytest.mark.slow
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
        (Progress, "step", terminate, "at step 1"),
        (TaskProgress, "advance", terminate_in_the_test, "in the exact test"),
    ):
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
            patch.setattr(cls, name, patched)
            main([*flags, "--out", str(broken)])
        assert ended.value.code == 143
        said += ": saved; the same command continues from here"
        assert capsys.readouterr().err == f"SIGTERM {said}\n"
        assert not (broken / "scratch-conventional" / "training_results.json").exists()
    main([*flags, "--out", str(broken)])
    again = results(broken, "scratch-conventional")
    for key in ("loss_curve", "val_curve", "test_metric", "final_val_metric"):
        assert again[key] == whole[key]
    assert "| `exact_pseudo_perplexity` |" in (broken / "README.md").read_text()


def test_a_run_that_began_before_its_tokens_had_a_digest_goes_on(finished, text_folder, tmp_path, capsys):
    """Its digest was that of all windows of the three splits, as int32; beside it there were fewer flags."""
    tokenizer = bert.load_tokenizer(finished / "scratch-conventional")
    digest = hashlib.blake2b(digest_size=16)
    for name, stride in (("train", 16), ("valid", 8), ("test", 8)):
        lines = Path(text_folder, f"{name}.txt").read_text().splitlines()
        ids = [i for line in lines for i in tokenizer(line, add_special_tokens=False)["input_ids"]]
        windows = [ids[start : start + 16] for start in range(0, len(ids) - 15, stride)]
        digest.update(np.array(windows, np.int32).tobytes())
    folder = tmp_path / "scratch-conventional"
    shutil.copytree(finished / "scratch-conventional", folder)
    options = json.loads((folder / "options.json").read_text())
    for name in ("windows", "text_column"):
        del options[name]
    flags = ["--variant", "scratch-conventional", "--dataset", text_folder, "--out", str(tmp_path), *FLAGS]
    for text, said in ((digest.hexdigest(), "is finished"), ("0" * 32, "the text or vocabulary behind")):
        (folder / "options.json").write_text(json.dumps(options | {"text": text}))
        with contextlib.suppress(SystemExit):
            main(flags)
        captured = capsys.readouterr()
        assert said in captured.out + captured.err


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


def test_a_run_of_a_version_with_fewer_flags_is_known_again(finished, text_folder, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(finished / "scratch-conventional", out / "scratch-conventional")
    options = out / "scratch-conventional" / "options.json"
    older = json.loads(options.read_text())
    for name in (
        "weight_decay",
        "beta1",
        "clip",
        "schedule",
        "dropout",
        "patience",
        "mask_rate",
        "recipe",
        "positions",
    ):
        del older[name]
    options.write_text(json.dumps(older))
    flags = ["--variant", "scratch-conventional", "--dataset", text_folder, "--out", str(out), *FLAGS]
    flags += ["--positions", "drawn"]  # as they were then
    main(flags)
    assert "is finished" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*flags, "--beta1", "0.8"])
    assert "--beta1 was 0.9, now 0.8" in capsys.readouterr().err


@pytest.mark.parametrize("lost", ["model.safetensors", "config.json"])
def test_a_model_that_is_gone_is_exported_again(finished, text_folder, tmp_path, capsys, lost):
    """From the best state, though the latest is another one."""
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    folder, latest = out / "scratch-conventional", Checkpoints(out / "scratch-conventional", 60)
    state, history = latest.restore(like_of(folder))
    worse = state._replace(params=jax.tree.map(lambda leaf: leaf + 1, state.params))
    history.val_curve.append((history.total_steps, history.best + 1))
    latest.save(worse, history)
    before = (folder / lost).read_bytes()
    (folder / lost).unlink()
    for killed in (
        folder / ".model.safetensors.1.tmp",
        folder / ".tokenizer.x.tmp" / "t",
        out / ".README.md.1.tmp",
    ):
        killed.parent.mkdir(exist_ok=True)
        killed.touch()
    main(["--variant", "scratch-conventional", "--dataset", text_folder, "--out", str(out), *FLAGS])
    assert (folder / lost).read_bytes() == before
    assert "it is exported again" in capsys.readouterr().err
    assert not [path for path in out.rglob("*") if path.name.startswith(".")]
    for name in ("test_metric", "best_val_metric"):
        assert results(out, "scratch-conventional")[name] == results(finished, "scratch-conventional")[name]


def like_of(folder):
    """The shapes of the state of the run in `folder`."""
    _, params = bert.load_pretrained(folder)
    return initial_state(params, make_optimizer(1e-2, 4))


def test_a_second_process_on_the_same_run_is_refused(text_folder, tmp_path, capsys):
    folder = tmp_path / "scratch-conventional"
    saving = folder / "checkpoints" / "2.tmp"
    saving.mkdir(parents=True)
    (folder / "options.json").write_text('{"text": "digest"}')
    with locked(folder), pytest.raises(SystemExit) as ended:
        main(["--variant", folder.name, "--dataset", text_folder, "--out", str(tmp_path), *FLAGS])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{folder} is in use by process {os.getpid()} on " in line
    assert saving.is_dir() and (folder / "options.json").read_text() == '{"text": "digest"}'


def test_changed_text_and_unknown_runs_are_refused(finished, text_folder, tmp_path, capsys):
    copied = tmp_path / "text"
    shutil.copytree(text_folder, copied)
    flags = ["--variant", "scratch-conventional", "--dataset", str(copied), "--out", str(tmp_path)]
    flags += FLAGS
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
    assert "holds files, but no options.json of a run" in refused()
