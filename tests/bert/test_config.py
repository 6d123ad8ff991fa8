"""BertConfig: what it accepts, what it names when it does not."""

import dataclasses

import pytest

from bwsk_jax.bert import PRESETS, BertConfig, BertConfigError


def test_presets():
    sizes = {
        name: (c.num_hidden_layers, c.hidden_size, c.num_attention_heads, c.intermediate_size, c.vocab_size)
        for name, c in PRESETS.items()
    }
    assert sizes == {
        "demo": (2, 128, 2, 512, 2048),
        "mini": (4, 256, 4, 1024, 30522),
        "base": (12, 768, 12, 3072, 30522),
    }
    positions = {name: c.max_position_embeddings for name, c in PRESETS.items()}
    assert positions == {"demo": 128, "mini": 512, "base": 512}


@pytest.mark.parametrize("name", PRESETS)
def test_hugging_face_round_trip(name):
    assert BertConfig.from_hf(PRESETS[name].to_hf()) == PRESETS[name]


def test_base_has_the_defaults_of_transformers():
    import transformers

    theirs = transformers.BertConfig().to_dict()
    assert {name: theirs[name] for name in dataclasses.asdict(PRESETS["base"])} == dataclasses.asdict(
        PRESETS["base"]
    )
    assert BertConfig.from_hf(theirs) == PRESETS["base"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vocab_size", 0),
        ("hidden_size", -8),
        ("num_hidden_layers", 2.0),
        ("num_attention_heads", True),
        ("num_attention_heads", 7),
        ("intermediate_size", "3072"),
        ("max_position_embeddings", None),
        ("hidden_dropout_prob", 1.0),
        ("attention_probs_dropout_prob", -0.1),
        ("hidden_act", "mish"),
        ("layer_norm_eps", 0.0),
        ("pad_token_id", 30522),
    ],
)
def test_a_fault_is_named(field, value):
    with pytest.raises(BertConfigError, match=f"{field}.*{value}|{value}.*{field}"):
        BertConfig(**{field: value})


def test_all_faults_are_in_one_message():
    with pytest.raises(BertConfigError, match=r"vocab_size.*; .*hidden_act"):
        BertConfig(vocab_size=-1, hidden_act="nothing")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", "electra"),
        ("position_embedding_type", "relative_key"),
        ("is_decoder", True),
        ("tie_word_embeddings", False),
        ("hidden_act", "quick_gelu"),
    ],
)
def test_another_function_is_refused(key, value):
    with pytest.raises(BertConfigError, match=f"{key} is {value!r}"):
        BertConfig.from_hf({**BertConfig().to_hf(), key: value})


def test_storage_type_is_checked():
    assert BertConfig().to_hf("bfloat16")["dtype"] == "bfloat16"
    with pytest.raises(BertConfigError, match="float8"):
        BertConfig().to_hf("float8")
