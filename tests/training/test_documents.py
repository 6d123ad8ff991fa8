"""`--windows documents`: [CLS] and [SEP] around rows, in training and measures, and never masked."""

import json

import jax
import numpy as np
import pytest

from bwsk_jax import bert, evaluate
from bwsk_jax.train import main
from bwsk_jax.training import resolve
from bwsk_jax.training.command_line import parse
from bwsk_jax.training.step.masking import draw_positions, is_one_of
from tests.support.runs import FLAGS, killed_after_save, results
from tests.support.texts import WORDS

VARIANT = "scratch-reversible"


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """The folder of rows in a column, some short and some longer than a window, without held-out splits."""
    folder = tmp_path_factory.mktemp("rows")
    draw = np.random.default_rng(0)
    with (folder / "train.jsonl").open("w") as stream:
        for _ in range(200):
            row = " ".join(draw.choice(WORDS, draw.integers(1, 40)))
            stream.write(json.dumps({"id": 1, "body": row}) + "\n")
    return folder


@pytest.fixture(scope="module")
def flags(rows):
    text = ["--dataset", str(rows), "--text-column", "body", "--windows", "documents"]
    return ["--variant", VARIANT, *text, *FLAGS]


@pytest.fixture(scope="module")
def trained(flags, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    main([*flags, "--out", str(out)])
    return out


def test_windows_are_documents_between_cls_and_sep_in_each_split(rows, flags, tmp_path):
    setup = resolve.prepare(parse([*flags, "--out", str(tmp_path)]))
    cls, sep = setup.tokenizer.cls_token_id, setup.tokenizer.sep_token_id
    assert setup.unmasked == (cls, sep)
    texts = [json.loads(line)["body"] for line in (rows / "train.jsonl").read_text().splitlines()]
    known = {tuple(setup.tokenizer(text)["input_ids"]) for text in texts}
    windows = setup.train_windows[np.arange(len(setup.train_windows))]
    for ids in (windows, setup.validation.tokens_wt[::2], setup.test.tokens_wt[::2]):
        ends = np.flatnonzero(ids.ravel() == sep)
        whole = [tuple(part.tolist()) for part in np.split(ids.ravel(), ends + 1)]
        assert len(whole) > 3 and set(whole[:-1]) <= known
        assert whole[-1] == () or whole[-1][0] == cls


def test_the_results_say_so_and_are_measured_again(trained, rows, capsys):
    run = results(trained, VARIANT)
    assert run["metric_name"] == run["val_metric_name"] == "document_pseudo_perplexity"
    assert (run["settings"]["windows"], run["settings"]["text_column"]) == ("documents", "body")
    assert f"Pseudo-perplexity in documents of {VARIANT}" in (trained / "README.md").read_text()
    capsys.readouterr()
    how = ["--text-column", "body", "--windows", "documents", "--seq-len", "16", "--batch-size", "4"]
    evaluate.main([str(trained / VARIANT), "--dataset", str(rows), *how])
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert found["document_pseudo_perplexity"] == run["test_metric"] and found["windows"] == "documents"
    assert captured.err.startswith("note: --dataset") and captured.err.count("note: ") == 1


def test_the_same_rows_are_held_out_for_each_variant_and_seed(rows, tmp_path):
    found = set()
    for variant, seed in (("scratch-conventional", 0), ("scratch-reversible", 1), ("scratch-analyzed", 7)):
        flags = ["--variant", variant, "--dataset", str(rows), "--text-column", "body", *FLAGS]
        setup = resolve.prepare(parse([*flags, "--seed", str(seed), "--out", str(tmp_path)]))
        tokens = [held_out.tokens_wt.tobytes() for held_out in (setup.validation, setup.test)]
        found.add((setup.text_digest, *tokens))
        (note,) = setup.notes
        assert "has no validation and test splits: one row in 20 of its training split is held out" in note
    assert len(found) == 1


def test_a_run_that_was_killed_goes_on_bit_for_bit_and_other_windows_are_another_run(
    flags, trained, tmp_path, monkeypatch, capsys
):
    flags = [*flags, "--out", str(tmp_path)]
    with killed_after_save(monkeypatch, 2):
        main([*flags, "--save-every", "0"])
    main(flags)
    assert "resuming after step 2/4" in capsys.readouterr().out
    for curve in ("loss_curve", "val_curve", "test_metric"):
        assert results(tmp_path, VARIANT)[curve] == results(trained, VARIANT)[curve]
    with pytest.raises(SystemExit, match="2"):
        main([*flags, "--windows", "packed"])
    assert "holds another run: --windows was documents, now packed" in capsys.readouterr().err


def test_a_step_masks_what_documents_consist_of_alone():
    tokens = np.random.default_rng(0).integers(2, 9, (50, 20))
    last = is_one_of(jax.numpy.asarray(tokens), (2, 3))
    positions = np.asarray(draw_positions(jax.random.key(0), 50, 20, 0.3, last))
    chosen = np.take_along_axis(tokens, positions, axis=1)
    assert positions.shape == (50, 6) and not np.isin(chosen, (2, 3)).any()
    free = draw_positions(jax.random.key(0), 50, 20, 0.3)
    assert np.isin(np.take_along_axis(tokens, np.asarray(free), axis=1), (2, 3)).any()


def test_a_dry_run_compiles_the_same_step(flags, trained, capsys):
    main([*flags, "--dry-run"])
    captured = capsys.readouterr()
    assert json.loads(captured.out)["compiled_peak_mb"] == results(trained, VARIANT)["compiled_peak_mb"]
    assert captured.err.startswith("note: --dataset")


def test_a_tokenizer_without_cls_is_refused(flags, tmp_path, capsys):
    bert.save_tokenizer(bert.train_tokenizer(["the layer inverts"], vocab_size=60), tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"cls_token": None}))
    with pytest.raises(SystemExit, match="2"):
        main([*flags, "--tokenizer", str(tmp_path), "--out", str(tmp_path / "out")])
    (line,) = capsys.readouterr().err.splitlines()
    assert "--windows documents: the tokenizer of" in line and "has no [CLS] or no [SEP]" in line
