"""Weights travel to Hugging Face folders and back unchanged, and a fault is named."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bwsk_jax.bert import (
    BertConfigError,
    CheckpointError,
    forward,
    init_params,
    load_for_finetuning,
    load_pretrained,
    save_pretrained,
)
from bwsk_jax.bert.huggingface import export_tensors, import_tensors
from tests.support.bert_models import TINY, tokens, torch_model


@pytest.fixture(scope="module")
def tiny():
    return TINY, init_params(TINY, jax.random.key(3))


@pytest.fixture(scope="module")
def exported_by_transformers(tmp_path_factory):
    """The tiny model of transformers and the folder that it saved itself to."""
    folder = tmp_path_factory.mktemp("transformers")
    model = torch_model(TINY)
    model.save_pretrained(folder)
    return model, folder


@pytest.fixture
def tensors(tiny):
    return export_tensors(*tiny)


def assert_same_tree(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_import_then_export_is_the_identity(exported_by_transformers, tmp_path):
    _, folder = exported_by_transformers
    config, params = load_pretrained(folder)
    assert config == TINY
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    save_pretrained(tmp_path, config, params)
    theirs, ours = load_file(folder / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert set(ours) == set(theirs)
    for name in theirs:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def test_export_then_import_is_the_identity(tiny, tmp_path):
    config, params = tiny
    save_pretrained(tmp_path, config, params)
    loaded_config, loaded = load_pretrained(tmp_path)
    assert loaded_config == config
    assert_same_tree(loaded, params)


def test_an_export_can_be_read_by_whoever_may_read_new_files(tiny, tmp_path):
    (tmp_path / "new").touch()
    save_pretrained(tmp_path, *tiny)
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "new").stat().st_mode


def test_transformers_loads_an_export_and_computes_its_logits(tiny, tmp_path):
    import torch
    from transformers import AutoModelForMaskedLM

    config, params = tiny
    save_pretrained(tmp_path / "variant", config, params)
    model, info = AutoModelForMaskedLM.from_pretrained(
        tmp_path, subfolder="variant", output_loading_info=True
    )
    assert not any(info.values()), info
    assert type(model).__name__ == "BertForMaskedLM" and model.dtype == torch.float32
    ids, mask, types = tokens(config, (2, 17))
    with torch.no_grad():
        theirs = model.eval()(*(torch.from_numpy(x).long() for x in (ids, mask, types))).logits
    np.testing.assert_allclose(forward(config, params, ids, mask, types), theirs, rtol=0, atol=2e-5)


def test_old_names_and_extra_tensors_are_taken(tiny, tensors):
    config, params = tiny
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor
        for name, tensor in tensors.items()
    }
    old["bert.pooler.dense.weight"] = np.zeros((48, 48), np.float32)
    old["bert.pooler.dense.bias"] = np.zeros(48, np.float32)
    old["cls.seq_relationship.weight"] = np.zeros((2, 48), np.float32)
    old["bert.embeddings.position_ids"] = np.arange(40)[None]
    old["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"]
    old["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"]
    assert_same_tree(import_tensors(config, old), params)
    bare = {name.removeprefix("bert."): tensor for name, tensor in old.items()}
    assert_same_tree(import_tensors(config, bare), params)


def test_shards_are_gathered(tiny, tensors, tmp_path):
    config, params = tiny
    names = sorted(tensors)
    shards = {name: f"model-0000{1 + row % 2}-of-00002.safetensors" for row, name in enumerate(names)}
    for shard in set(shards.values()):
        save_file({name: tensors[name] for name in names if shards[name] == shard}, tmp_path / shard)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    (tmp_path / "config.json").write_text(json.dumps(config.to_hf()))
    assert_same_tree(load_pretrained(tmp_path)[1], params)
    (tmp_path / shards[names[0]]).unlink()
    with pytest.raises(CheckpointError, match=shards[names[0]]):
        load_pretrained(tmp_path)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_storage_is_read_as_float32(dtype, tmp_path):
    model = torch_model(TINY, dtype=dtype)
    model.save_pretrained(tmp_path)
    _, params = load_pretrained(tmp_path)
    word = params["embeddings"]["word"]["embedding"]
    assert word.dtype == jnp.float32
    stored = model.get_parameter("bert.embeddings.word_embeddings.weight").detach().float().numpy()
    np.testing.assert_array_equal(word, stored)


def test_all_faults_of_an_import_are_named_at_once(tensors):
    del tensors["cls.predictions.bias"]
    tensors["bert.encoder.layer.0.output.LayerNorm.gamma"] = np.ones(48, np.float32)
    tensors["bert.encoder.layer.3.output.dense.bias"] = np.zeros(48, np.float32)
    tensors["bert.encoder.layer.1.output.dense.weight"] = np.zeros((80, 48), np.float32)
    tensors["bert.embeddings.LayerNorm.bias"] = np.zeros(48, np.int32)
    with pytest.raises(CheckpointError) as error:
        import_tensors(TINY, tensors)
    for fault in [
        "missing: cls.predictions.bias [101]",
        "twice: bert.encoder.layer.0.output.LayerNorm.weight",
        "unexpected: bert.encoder.layer.3.output.dense.bias [48]",
        "shape: bert.encoder.layer.1.output.dense.weight is [80, 48], expected [48, 80]",
        "type: bert.embeddings.LayerNorm.bias is int32",
    ]:
        assert fault in str(error.value)


def test_all_faults_of_an_export_are_named_and_nothing_is_written(tiny, tmp_path):
    config, params = tiny
    params = {**params, "head": {"decoder": {"bias": jnp.zeros(7)}, "surprise": jnp.zeros(1)}}
    with pytest.raises(CheckpointError) as error:
        save_pretrained(tmp_path / "new", config, params)
    for fault in ["missing: head.transform.kernel", "unexpected: head.surprise", "head.decoder.bias is [7]"]:
        assert fault in str(error.value)
    assert not (tmp_path / "new").exists()


@pytest.fixture
def folder(exported_by_transformers, tmp_path):
    return shutil.copytree(exported_by_transformers[1], tmp_path / "copy")


def test_a_pickle_is_not_opened(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pickle.*convert it"):
        load_pretrained(folder)


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor"):
        load_pretrained(folder)


@pytest.mark.parametrize("size", [0, 5, 3000, -1])
def test_truncated_weights(folder, size):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        load_pretrained(folder)


@pytest.mark.parametrize("text", ["{", "[]", None])
def test_broken_configuration(folder, text):
    (folder / "config.json").unlink()
    if text is not None:
        (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_pretrained(folder)


def test_another_architecture(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "electra"}))
    with pytest.raises(BertConfigError, match=r"config\.json.*electra.*only 'bert', 'roberta' and 'dist"):
        load_pretrained(folder)


def test_a_failed_save_leaves_the_previous_files(tiny, tmp_path, monkeypatch):
    config, params = tiny
    save_pretrained(tmp_path, config, params)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def full(tensors, file, metadata):
        file.write_bytes(b"part")
        raise OSError("No space left on device")

    monkeypatch.setattr("bwsk_jax.bert.huggingface.folders.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_pretrained(tmp_path, config, jax.tree.map(lambda x: x + 1, params))
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize("wrapper", ["module.", "model.module.", "encoder.", "mybert."])
@pytest.mark.parametrize("prefix", ["bert.", ""])
def test_wrappers_are_taken_off(tiny, tensors, wrapper, prefix):
    config, params = tiny
    wrapped = {
        wrapper + (prefix + name.removeprefix("bert.") if name.startswith("bert.") else name): tensor
        for name, tensor in tensors.items()
    }
    assert_same_tree(import_tensors(config, wrapped), params)


def test_two_encoders_are_not_mixed(tensors):
    twice = {f"{wrapper}.{name}": tensor for name, tensor in tensors.items() for wrapper in ("a", "b")}
    with pytest.raises(CheckpointError, match=r"unexpected: a\.bert(?s:.*)unexpected: b\.bert"):
        import_tensors(TINY, twice)


def test_the_decoders_copy_of_the_bias_is_taken_when_it_is_the_only_one(tiny, tensors):
    config, params = tiny
    tensors["cls.predictions.decoder.bias"] = tensors.pop("cls.predictions.bias") + 1
    bias = import_tensors(config, tensors)["head"]["decoder"]["bias"]
    np.testing.assert_array_equal(bias, params["head"]["decoder"]["bias"] + 1)


def write(folder, config, tensors):
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config.to_hf()))


def test_an_encoder_without_a_head_gets_a_fresh_one_to_finetune(tmp_path):
    import transformers

    torch_model(TINY).bert.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["BertModel"]
    config, params, fresh = load_for_finetuning(tmp_path, jax.random.key(5))
    assert set(fresh) == {name for name in export_tensors(config, params) if name.startswith("cls.")}
    assert_same_tree(params["head"], init_params(config, jax.random.key(5))["head"])
    encoder = transformers.BertModel.from_pretrained(tmp_path)
    np.testing.assert_array_equal(
        params["embeddings"]["word"]["embedding"], encoder.embeddings.word_embeddings.weight.detach()
    )
    with pytest.raises(CheckpointError, match=r"missing: cls\.predictions\.bias"):
        load_pretrained(tmp_path)


def test_a_whole_head_is_kept_and_a_part_of_one_refused(tiny, tensors, tmp_path):
    config, params = tiny
    write(tmp_path, config, tensors)
    _, loaded, fresh = load_for_finetuning(tmp_path, jax.random.key(5))
    assert fresh == ()
    assert_same_tree(loaded, params)
    del tensors["cls.predictions.transform.dense.weight"]
    write(tmp_path, config, tensors)
    with pytest.raises(CheckpointError, match=r"missing: cls\.predictions\.transform\.dense\.weight"):
        load_for_finetuning(tmp_path, jax.random.key(5))


@pytest.mark.parametrize("index", ["{}", '{"weight_map": {"a": 1}}'])
def test_a_broken_index(folder, index):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointError, match="no weight_map"):
        load_pretrained(folder)


def test_an_unsupported_activation(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_act": "mish"}))
    with pytest.raises(BertConfigError, match=r"config\.json.*hidden_act is 'mish', expected one of gelu"):
        load_pretrained(folder)
