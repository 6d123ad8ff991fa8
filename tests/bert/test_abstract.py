"""What training classifies and plans, without arrays."""

import dataclasses

import jax.numpy as jnp
import pytest

import bwsk_jax
from bwsk_jax import bert

SMALL = dataclasses.replace(bert.PRESETS["demo"], num_hidden_layers=3)


def test_bert_base_counts_as_the_reference_counts():
    report = bert.classify_training(bert.PRESETS["base"], 4, 512, taxonomy="reference")
    assert report.leaf_modules == {"S": 103, "K": 50}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_layers_count_as_often_as_they_run(dtype):
    report = bert.classify_training(SMALL, 2, 16, dtype)
    repeats = {module.name: module.repeats for module in report.modules}
    assert repeats["Layer/attention/query"] == 3
    assert repeats["Embeddings/word"] == 1
    assert {module.name: module.kind for module in report.modules}["Layer/attention/dropout"] == "K"


def test_the_layer_can_be_planned():
    plan = bwsk_jax.plan_scan(*bert.abstract_encoder(SMALL, 2, 16, jnp.bfloat16))
    assert 0 < plan.saved_bytes < plan.residual_bytes


def test_a_config_is_read_without_weights(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert", "num_hidden_layers": 4}')
    assert bert.load_config(tmp_path).num_hidden_layers == 4
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(bert.BertConfigError, match="gpt2"):
        bert.load_config(tmp_path)
    with pytest.raises(bert.CheckpointError, match="cannot be read"):
        bert.load_config(tmp_path / "missing")
