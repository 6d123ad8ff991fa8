"""`python -m bwsk_jax.evaluate` measures what transformers computes, and what training said."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from bwsk_jax.evaluate import main
from bwsk_jax.training.step.masking import draw_positions
from tests.support.masked_lm import losses, write_masked_lm
from tests.support.runs import FLAGS, results


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of a BERT with random weights, the same as transformers has it, and its tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    return folder, *write_masked_lm(folder)


def test_both_metrics_are_what_transformers_computes(model, text_folder, capsys):
    folder, network, tokenizer = model
    main([str(folder), "--dataset", text_folder, "--metric", "both", "--seq-len", "16", "--batch-size", "7"])
    found = json.loads(capsys.readouterr().out)

    lines = Path(text_folder, "test.txt").read_text().splitlines()
    tokens = np.array([i for line in lines for i in tokenizer(line, add_special_tokens=False)["input_ids"]])
    assert found["tokens"] == len(tokens) and found["seq_len"] == 16 and found["split"] == "test"
    windows = np.stack([tokens[start : start + 16] for start in range(0, len(tokens) - 15, 8)])
    drawn = np.array(draw_positions(jax.random.key(0), *windows.shape))
    sampled = math.exp(losses(network, windows, drawn).mean())
    assert found["pseudo_perplexity"] == pytest.approx(sampled, rel=1e-5)

    starts = [min(i // 16 * 16, len(tokens) - 16) for i in range(len(tokens))]
    every = np.array([[i - start] for i, start in enumerate(starts)])
    windows = np.stack([tokens[start : start + 16] for start in starts])
    assert found["exact_pseudo_perplexity"] == pytest.approx(
        math.exp(losses(network, windows, every).mean()), rel=1e-5
    )


def test_a_run_s_own_figures_come_out_again(finished, text_folder, capsys):
    flags = ["--dataset", text_folder, "--seq-len", "16", "--batch-size", FLAGS[3]]
    main([str(finished / "scratch-conventional"), *flags])
    test = json.loads(capsys.readouterr().out)
    main([str(finished / "scratch-conventional"), *flags, "--split", "validation"])
    validation = json.loads(capsys.readouterr().out)
    run = results(finished, "scratch-conventional")
    assert test["pseudo_perplexity"] == run["test_metric"]
    assert validation["pseudo_perplexity"] == pytest.approx(run["best_val_metric"], rel=1e-6)
    assert "exact_pseudo_perplexity" not in test


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("", "missing: FOLDER_OR_HUB_NAME (see --help)"),
        ("{model}", "--dataset is missing: give 'embedded', a Hub name or a folder"),
        ("{model} --datset x", "Unrecognized options: --datset, x (did you mean --dataset?)"),
        ("{tmp}/absent --dataset {text}", "the model {tmp}/absent: no such folder"),
        ("someone/absent --dataset {text}", "the model someone/absent: no such folder, not in the cache"),
        ("{tmp} --dataset {text}", "{tmp}/config.json cannot be read: No such file"),
        (
            "{encoder} --dataset {text}",
            "the model {encoder} has no masked-LM head, and predicts no words",
        ),
        ("{model} --dataset {tmp}/absent", "--dataset {tmp}/absent: no such folder"),
        (
            "{model} --dataset {text} --tokenizer trained",
            "--tokenizer trained: give a folder, a vocab",
        ),
        (
            "{model} --dataset {text} --metric exat",
            "--metric exat is not one of sampled, exact, both: ",
        ),
        ("{model} --dataset {text} --split tests", "--split tests is not one of test, validation: "),
        ("{model} --dataset {text} --seq-len 99", "--seq-len 99 is beyond the model's 24 positions"),
        ("{model} --dataset {text} --batch-size 0", "--batch-size 0 must be positive"),
        ("~/x --dataset {text}", "the model '~/x' begins with a ~"),
    ],
)
def test_mistakes_end_in_one_line(model, text_folder, tmp_path, capsys, flags, message):
    from safetensors.numpy import load_file, save_file

    encoder = tmp_path / "encoder"
    shutil.copytree(model[0], encoder)
    tensors = load_file(encoder / "model.safetensors")
    save_file({n: t for n, t in tensors.items() if not n.startswith("cls.")}, encoder / "model.safetensors")
    places = {"model": model[0], "text": text_folder, "tmp": tmp_path, "encoder": encoder}
    with pytest.raises(SystemExit) as ended:
        main(flags.format(**places).split())
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message.format(**places)}")


@pytest.mark.parametrize("module", ["evaluate", "fill_mask"])
def test_help_needs_neither_jax_nor_pytorch(module):
    code = (
        f"import sys; from bwsk_jax.{module} import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'jax', 'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "FOLDER_OR_HUB_NAME" in ran.stdout and "None" not in ran.stdout


@pytest.mark.slow
def test_both_work_without_pytorch(model, text_folder):
    code = (
        "import importlib.util, sys; find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name == 'torch' else find(name, *a)\n"
        "from bwsk_jax import evaluate, fill_mask\n"
        f"evaluate.main([{str(model[0])!r}, '--dataset', {text_folder!r}, '--seq-len', '16'])\n"
        f"fill_mask.main([{str(model[0])!r}, 'memory stays [MASK]'])\n"
        "assert 'torch' not in sys.modules"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0 and ran.stderr == "", ran.stderr
    assert ran.stdout.count("%") == 5
