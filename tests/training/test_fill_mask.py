"""`python -m bwsk_jax.fill_mask` gives what transformers' pipeline gives."""

import json

import pytest

from bwsk_jax.fill_mask import main
from tests.support.masked_lm import write_masked_lm


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write_masked_lm(folder)
    return str(folder)


@pytest.mark.parametrize("text", ["Memory [MASK] small", "what it [MASK] and [MASK]", "[MASK]"])
def test_words_and_probabilities_are_the_pipeline_s(model, text, capsys):
    from transformers import pipeline

    main([model, text, "--top", "7", "--json"])
    found = json.loads(capsys.readouterr().out)
    expected = pipeline("fill-mask", model, device="cpu")(text, top_k=7)
    expected = expected if isinstance(expected[0], list) else [expected]
    for gap, expected_gap in zip(found, expected, strict=True):
        for filling, best in zip(gap, expected_gap, strict=True):
            assert filling["score"] == pytest.approx(best["score"], rel=1e-4)
            assert {**filling, "score": 0} == {**best, "score": 0}


def test_the_words_are_shown_with_their_probabilities(model, capsys):
    main([model, "memory [MASK] small", "--top", "3"])
    shown = capsys.readouterr().out
    main([model, "memory [MASK] small", "--top", "3", "--json"])
    (found,) = json.loads(capsys.readouterr().out)
    for line, filling in zip(shown.splitlines(), found, strict=True):
        assert line.startswith(f"{filling['score']:7.2%}  {filling['token_str']} ")
        assert line.endswith(f"  {filling['sequence']}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "missing: FOLDER_OR_HUB_NAME, TEXT (see --help)"),
        (["{model}"], "missing: TEXT (see --help)"),
        (["{model}", "nothing"], "the text has no [MASK]: put one where a word is wanted"),
        (["{model}", "the " * 30 + "[MASK]"], "the text has 93 tokens, more than the model's 24 positions"),
        (["{model}", "[MASK]", "--top", "0"], "--top 0 must be from 1 to 61"),
        (["{model}", "[MASK]", "--top", "x"], "--top x must be an integer"),
        (["/absent", "[MASK]"], "the model /absent: no such folder"),
        (["", "[MASK]"], "the model  is empty"),
        (["{model}", "[MASK]", "--device", "tpu"], "--device tpu is not one of auto, cpu, gpu"),
    ],
)
def test_mistakes_end_in_one_line(model, words, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main([word.format(model=model) for word in words])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message}")
