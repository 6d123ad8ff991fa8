"""RoBERTa and DistilBERT are fine-tuned, measured and asked for words as BERT is."""

import json
import math
from pathlib import Path

import jax
import numpy as np
import pytest

from bwsk_jax import evaluate, fill_mask
from bwsk_jax.train import main
from bwsk_jax.training.step.masking import draw_positions
from tests.support.masked_lm import losses
from tests.support.runs import FLAGS, results
from tests.support.siblings import SIBLINGS, write_sibling


@pytest.fixture(scope="module", params=SIBLINGS)
def sibling(request, tmp_path_factory):
    """The folder of a model with its tokenizer, and what transformers has of both."""
    folder = tmp_path_factory.mktemp(request.param)
    return folder, *write_sibling(request.param, folder)


def test_a_sibling_is_fine_tuned_and_loads_as_what_it_was(sibling, text_folder, tmp_path, capsys):
    import torch
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    folder, network, tokenizer = sibling
    flags = ["--variant", "finetune-reversible", "--init", str(folder), "--dataset", text_folder]
    main([*flags, "--masking", "bert", "--out", str(tmp_path), *FLAGS])
    said = capsys.readouterr()
    assert "nothing missing, unexpected or mismatched" in said.out and "note:" not in said.err
    run = results(tmp_path, "finetune-reversible")
    assert run["best_val_metric"] < run["first_val_metric"]
    assert run["settings"]["architecture"] == network.config.model_type
    card = (tmp_path / "README.md").read_text()
    assert f"- {network.config.model_type}\n- jax\n" in card and "- bert\n" not in card

    for place in (tmp_path / "finetune-reversible", tmp_path):
        model, info = AutoModelForMaskedLM.from_pretrained(place, output_loading_info=True)
        assert type(model) is type(network) and not any(info.values()), info
        words = [m.get_input_embeddings().weight for m in (model, network)]
        assert not torch.equal(*words) and torch.allclose(*words, atol=0.1)
        loaded = AutoTokenizer.from_pretrained(place)
        assert type(loaded) is type(tokenizer) and loaded.get_vocab() == tokenizer.get_vocab()
        text = f"Memory stays, {tokenizer.mask_token} small"
        assert loaded(text) == tokenizer(text)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            saved, own = (json.loads((where / file).read_text()) for where in (place, folder))
            assert saved == saved | own


def test_a_sibling_is_measured_as_transformers_computes(sibling, text_folder, capsys):
    folder, network, tokenizer = sibling
    evaluate.main([str(folder), "--dataset", text_folder])
    found = json.loads(capsys.readouterr().out)
    assert found["seq_len"] == 24
    lines = Path(text_folder, "test.txt").read_text().splitlines()
    tokens = np.array([i for line in lines for i in tokenizer(line, add_special_tokens=False)["input_ids"]])
    windows = np.stack([tokens[start : start + 24] for start in range(0, len(tokens) - 23, 12)])
    drawn = np.array(draw_positions(jax.random.key(0), *windows.shape))
    expected = math.exp(losses(network, windows, drawn, tokenizer.mask_token_id).mean())
    assert found["pseudo_perplexity"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("text", ["Memory {} small", "what it {} and{}"])
@pytest.mark.parametrize("gap", ["[MASK]", "its own"])
def test_words_and_probabilities_are_the_pipeline_s(sibling, text, gap, capsys):
    from transformers import pipeline

    folder, _, tokenizer = sibling
    own = tokenizer.mask_token
    gap = own if gap == "its own" else gap
    fill_mask.main([str(folder), text.format(gap, gap), "--top", "7", "--json"])
    found = json.loads(capsys.readouterr().out)
    expected = pipeline("fill-mask", str(folder), device="cpu")(text.format(own, own), top_k=7)
    expected = expected if isinstance(expected[0], list) else [expected]
    for gap_found, gap_expected in zip(found, expected, strict=True):
        for filling, best in zip(gap_found, gap_expected, strict=True):
            assert filling["score"] == pytest.approx(best["score"], rel=1e-4)
            assert {**filling, "score": 0} == {**best, "score": 0}


def test_a_text_without_a_gap_is_answered_with_the_model_s_own_token(sibling, capsys):
    folder, _, tokenizer = sibling
    with pytest.raises(SystemExit):
        fill_mask.main([str(folder), "nothing"])
    assert capsys.readouterr().err == (
        f"error: the text has no {tokenizer.mask_token}: put one where a word is wanted\n"
    )


def test_a_longer_window_than_the_positions_take_is_refused(sibling, text_folder, tmp_path, capsys):
    flags = ["--variant", "finetune-reversible", "--init", str(sibling[0]), "--dataset", text_folder]
    with pytest.raises(SystemExit):
        main([*flags, "--out", str(tmp_path), "--seq-len", "25"])
    assert "error: --seq-len 25 is beyond the model's 24 positions" in capsys.readouterr().err


def test_words_that_break_lines_are_shown_in_one(tmp_path, capsys):
    """Each byte is a word of a byte-level BPE, line breaks too."""
    _, tokenizer = write_sibling("roberta", tmp_path)
    fill_mask.main([str(tmp_path), "what <mask> saves", "--top", str(len(tokenizer))])
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) == len(tokenizer) and "\\n" in shown
