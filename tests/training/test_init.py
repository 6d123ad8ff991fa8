"""What fine-tuning makes of the model it is given: whole, damaged, without a head, or with other words."""

import json
import shutil

import pytest
from safetensors.numpy import load_file, save_file

from bwsk_jax import bert
from bwsk_jax.train import main
from tests.support.runs import FLAGS


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


def store_nan(folder):
    tensors = load_file(folder / "model.safetensors")
    for name in ("bert.embeddings.LayerNorm.bias", "cls.predictions.bias"):
        tensors[name].flat[1] = float("nan")
    save_file(tensors, folder / "model.safetensors")


def cut(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            store_nan,
            "NaN or infinity is stored in 2 places: bert.embeddings.LayerNorm.bias; cls.predictions.bias",
        ),
        (cut, "model.safetensors cannot be read as safetensors"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"no"), "cannot be read as safetensors"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has neither model.safetensors nor"),
        (
            edit_config(model_type="electra"),
            "'electra', only 'bert', 'roberta' and 'distilbert' are supported",
        ),
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


def test_a_vocabulary_of_other_words_is_refused(damaged, tmp_path):
    def swap(folder):
        words = sorted(bert.load_tokenizer(folder).get_vocab().items(), key=lambda entry: entry[1])
        (tmp_path / "vocab.txt").write_text("\n".join(word for word, _ in [*words[:5], *words[:4:-1]]))

    line = damaged(swap, "--tokenizer", str(tmp_path / "vocab.txt"))
    assert (
        "has other words than the model in" in line and "(5 is " in line and "leave --tokenizer out" in line
    )


def test_an_encoder_gets_a_head_and_the_run_says_so(finished, text_folder, tmp_path, capsys):
    init = shutil.copytree(finished / "scratch-conventional", tmp_path / "init")
    tensors = load_file(init / "model.safetensors")
    save_file({n: t for n, t in tensors.items() if not n.startswith("cls.")}, init / "model.safetensors")
    flags = ["--variant", "finetune-conventional", "--init", str(init), "--dataset", text_folder]
    main([*flags, "--out", str(tmp_path / "out"), *FLAGS])
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert notes == [f"note: {init} has no masked-LM head: its 5 tensors start from --seed 0"]
