"""The export as transformers sees it."""

import jax
import numpy as np
import pytest

from bwsk_jax import bert
from bwsk_jax.training.report.loading import show_loading

TEXT = "the quick brown fox jumps over the lazy dog " * 20


@pytest.fixture
def folder(tmp_path):
    tokenizer = bert.train_tokenizer([TEXT], vocab_size=80)
    config = bert.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    bert.save_pretrained(tmp_path / "variant", config, bert.init_params(config, jax.random.key(0)))
    bert.save_tokenizer(tokenizer, tmp_path / "variant")
    return tmp_path / "variant"


def test_a_good_export_loads_without_faults(folder):
    shown = show_loading(folder, TEXT)
    assert "nothing missing, unexpected or mismatched" in shown
    assert "[MASK]" in shown


def test_a_missing_tensor_is_told(folder):
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["bert.encoder.layer.0.output.dense.bias"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert "bert.encoder.layer.0.output.dense.bias" in show_loading(folder, TEXT)


def test_without_torch_it_says_what_to_install(folder, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install torch" in show_loading(folder, TEXT)


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
