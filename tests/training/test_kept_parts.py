"""What a checkpoint has besides its masked LM is exported unchanged."""

import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bwsk_jax import bert
from bwsk_jax.train import main
from bwsk_jax.training.data.pretrained import sentence_files
from tests.support.runs import FLAGS

SENTENCE = {
    "modules.json": '[{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Dense"}, {"path": "../up"}]',
    "sentence_bert_config.json": '{"max_seq_length": 16}',
    "config_sentence_transformers.json": "{}",
    "1_Pooling/config.json": '{"pooling_mode_cls_token": true}',
    "2_Dense/config.json": "{}",
    "2_Dense/model.safetensors": "weights",
}


@pytest.fixture
def sentence_encoder(finished, tmp_path):
    """An encoder of sentence-transformers: with a pooler, without a head, and with files of its own."""
    torch = pytest.importorskip("torch")
    from transformers import AutoModel

    torch.manual_seed(0)
    folder = tmp_path / "encoder"
    AutoModel.from_pretrained(finished / "scratch-conventional").save_pretrained(folder)
    bert.save_tokenizer(bert.load_tokenizer(finished / "scratch-conventional"), folder)
    for name, content in (SENTENCE | {"2_Dense/pytorch_model.bin": "pickle"}).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    return folder


def test_an_encoder_s_pooler_and_files_are_exported_unchanged(
    sentence_encoder, text_folder, tmp_path, capsys
):
    import torch
    from transformers import AutoModel, AutoModelForMaskedLM

    out = tmp_path / "out"
    flags = ["--variant", "finetune-conventional", "--init", str(sentence_encoder), "--dataset", text_folder]
    main([*flags, "--out", str(out), *FLAGS])
    said = capsys.readouterr()
    assert f"note: the pooler of {sentence_encoder} is exported unchanged" in said.err
    assert f"these files of {sentence_encoder} are exported unchanged: 1_Pooling/config.json, 2_D" in said.err
    assert "nothing missing, unexpected or mismatched" in said.out

    for place in (out / "finetune-conventional", out):
        for name, content in SENTENCE.items():
            assert (place / name).read_text() == content
        assert not (place / "2_Dense" / "pytorch_model.bin").exists()
        model, info = AutoModel.from_pretrained(place, output_loading_info=True)
        assert not info["missing_keys"]
        before = AutoModel.from_pretrained(sentence_encoder)
        for kept in ("weight", "bias"):
            pooler = [getattr(m.pooler.dense, kept) for m in (before, model)]
            assert torch.equal(*pooler)
        assert not torch.equal(*(m.embeddings.word_embeddings.weight for m in (before, model)))
        _, info = AutoModelForMaskedLM.from_pretrained(place, output_loading_info=True)
        assert info.pop("unexpected_keys") == {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}
        assert not any(info.values())


def test_a_pooler_is_read_under_any_spelling_and_in_any_type(finished, tmp_path):
    folder = finished / "scratch-conventional"
    assert bert.load_pooler(folder) == {}
    tensors = {f"module.{name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    pooler = np.arange(6, dtype=np.float16).reshape(2, 3)
    save_file(tensors | {"module.bert.pooler.dense.weight": pooler}, tmp_path / "model.safetensors")
    shutil.copy(folder / "config.json", tmp_path)
    (found,) = bert.load_pooler(tmp_path).items()
    assert found[0] == "bert.pooler.dense.weight" and found[1].dtype == np.float32
    np.testing.assert_array_equal(found[1], pooler)


@pytest.mark.parametrize("modules", ["{", "[1]", '{"path": "1_Pooling"}', '[{"idx": 0}]', "null"])
def test_a_strange_list_of_modules_is_kept_and_nothing_else(tmp_path, modules):
    (tmp_path / "modules.json").write_text(modules)
    assert list(sentence_files(tmp_path)) == ["modules.json"]


def test_a_next_sentence_head_is_exported_unchanged(finished, text_folder, tmp_path, capsys):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForMaskedLM, BertForPreTraining

    torch.manual_seed(0)
    init, out = tmp_path / "init", tmp_path / "out"
    before = BertForPreTraining.from_pretrained(finished / "scratch-conventional")
    before.save_pretrained(init)
    bert.save_tokenizer(bert.load_tokenizer(finished / "scratch-conventional"), init)
    flags = ["--variant", "finetune-conventional", "--init", str(init), "--dataset", text_folder]
    main([*flags, "--out", str(out), *FLAGS])
    said = capsys.readouterr()
    assert f"note: the pooler and next-sentence head of {init} are exported unchanged" in said.err
    assert "nothing missing, unexpected or mismatched" in said.out

    model, info = BertForPreTraining.from_pretrained(out, output_loading_info=True)
    assert not any(info.values()), info
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before.get_parameter(n))}
    kept = {"bert.pooler.dense", "cls.seq_relationship"}
    assert set(dict(model.named_parameters())) - changed == {
        f"{n}.{leaf}" for n in kept for leaf in ("weight", "bias")
    }
    _, info = AutoModelForMaskedLM.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"]
