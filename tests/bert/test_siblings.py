"""RoBERTa and DistilBERT compute what transformers computes, and travel to its folders and back unchanged."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from bwsk_jax import bert
from bwsk_jax.bert.huggingface import export_tensors
from tests.support.siblings import SIBLINGS, ours, padded_tokens, small_sizes, torch_sibling

NAMES = {  # by architecture: what it calls the hidden size, layers, heads, feed-forward size and activation
    "roberta": (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "hidden_act",
    ),
    "distilbert": ("dim", "n_layers", "n_heads", "hidden_dim", "activation"),
}

NOT_SIZES = ("_name_or_path", "architectures", "dtype")  # in a configuration of transformers


@st.composite
def models(draw):
    """A masked LM of transformers, of any small size."""
    model_type = draw(st.sampled_from(SIBLINGS))
    heads, pad, longest = draw(st.integers(1, 4)), draw(st.integers(0, 5)), draw(st.integers(1, 20))
    act = draw(st.sampled_from(["gelu", "gelu_new", "relu", "silu", "tanh"]))
    sizes = (heads * draw(st.integers(1, 12)), draw(st.integers(1, 3)), heads, draw(st.integers(1, 50)), act)
    values = dict(zip(NAMES[model_type], sizes, strict=True)) | {"pad_token_id": pad, "vocab_size": 90}
    if model_type == "roberta":
        others = {
            "type_vocab_size": draw(st.integers(1, 3)),
            "layer_norm_eps": draw(st.sampled_from([1e-5, 1e-12])),
        }
        return torch_sibling(model_type, **values, **others, max_position_embeddings=longest + pad + 1)
    return torch_sibling(model_type, **values, max_position_embeddings=longest)


def torch_logits(model, ids, mask):
    import torch

    mask = None if mask is None else torch.from_numpy(mask).long()
    with torch.no_grad():
        return model(torch.from_numpy(ids).long(), attention_mask=mask).logits.numpy()


@given(models(), st.sampled_from(["right", "left", "nowhere"]), st.booleans(), st.data())
def test_logits_are_those_of_torch_wherever_padding_stands(model, side, masked, data):
    config, params = ours(model)
    length = data.draw(st.integers(1, config.longest_input))
    ids, mask = padded_tokens(config, (3, length), side, seed=length)
    mask = mask if masked else None
    logits = forward(config, params, ids, mask)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, torch_logits(model, ids, mask), rtol=0, atol=2e-5)


forward = jax.jit(bert.forward, static_argnums=0)


@pytest.fixture(scope="module", params=SIBLINGS)
def sibling(request):
    return torch_sibling(request.param, **small_sizes(request.param))


def test_the_longest_input_is_that_of_torch(sibling):
    config, params = ours(sibling)
    assert config.longest_input == 24
    ids, _ = padded_tokens(config, (1, 24), "nowhere")
    np.testing.assert_allclose(
        forward(config, params, ids), torch_logits(sibling, ids, None), rtol=0, atol=2e-5
    )
    longer, _ = padded_tokens(config, (1, 25), "nowhere")
    with pytest.raises(bert.BertInputError, match="25 positions, but the model takes 24 "):
        bert.forward(config, params, longer)
    with pytest.raises((IndexError, RuntimeError)):
        torch_logits(sibling, longer, None)


def test_gradients_are_those_of_torch(sibling):
    import torch

    config, params = ours(sibling)
    ids, mask = padded_tokens(config, (3, 12), "right")
    chosen = (np.random.default_rng(1).random(ids.shape) < 0.4) & (mask == 1)

    def loss(params):
        losses = optax.softmax_cross_entropy_with_integer_labels(bert.forward(config, params, ids, mask), ids)
        return losses.mean(where=chosen)

    gradients = export_tensors(config, jax.jit(jax.grad(loss))(params))
    labels = torch.from_numpy(np.where(chosen, ids, -100)).long()
    sibling.zero_grad()
    sibling(
        torch.from_numpy(ids).long(), attention_mask=torch.from_numpy(mask).long(), labels=labels
    ).loss.backward()
    theirs = {name: parameter.grad.numpy() for name, parameter in sibling.named_parameters()}
    assert len(theirs) == len(gradients)
    for name, gradient in gradients.items():
        expected = theirs.get(name, theirs.get(name.replace("lm_head.bias", "lm_head.decoder.bias")))
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=2e-6, err_msg=name)


def test_an_untouched_model_is_exported_bit_for_bit_and_loads_as_the_same(sibling, tmp_path):
    from transformers import AutoModelForMaskedLM

    sibling.save_pretrained(tmp_path / "theirs")
    config, params = bert.load_pretrained(tmp_path / "theirs")
    bert.save_pretrained(tmp_path / "ours", config, params)
    assert bert.load_config(tmp_path / "ours") == config
    before, after = (load_file(tmp_path / whose / "model.safetensors") for whose in ("theirs", "ours"))
    assert before.keys() == after.keys()
    for name in before:
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)
    model, info = AutoModelForMaskedLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert type(model) is type(sibling) and not any(info.values()), info
    assert model.config.architectures == [type(sibling).__name__]
    mine, theirs = (m.config.to_dict() | dict.fromkeys(NOT_SIZES) for m in (model, sibling))
    assert mine == mine | theirs


def test_an_encoder_alone_gets_a_head_and_keeps_its_pooler(sibling, tmp_path):
    from transformers import AutoModel

    AutoModel.from_config(sibling.config).save_pretrained(tmp_path)
    config, params, fresh = bert.load_for_finetuning(tmp_path, jax.random.key(0))
    head = {name for name in export_tensors(config, params) if not name.startswith(f"{config.model_type}.")}
    assert len(head) == 5 and set(fresh) == head
    pooler = [f"{config.model_type}.pooler.dense.{leaf}" for leaf in ("bias", "weight")]
    assert sorted(bert.load_pooler(tmp_path)) == (pooler if config.model_type == "roberta" else [])


def test_other_spellings_are_taken(sibling, tmp_path):
    """Those of a wrapper and of old writers, with copies of what is tied."""
    config, params = ours(sibling)
    tensors = export_tensors(config, params)
    word = tensors[f"{config.model_type}.embeddings.word_embeddings.weight"]
    copies = {f"{config.model_type}.embeddings.position_ids": np.arange(24)[None]}
    copies |= {"vocab_projector.weight": word} if config.model_type == "distilbert" else {}
    if config.model_type == "roberta":
        copies |= {"lm_head.decoder.weight": word, "lm_head.decoder.bias": tensors.pop("lm_head.bias")}
    old = {
        f"module.{name.replace('LayerNorm.weight', 'LayerNorm.gamma')}": tensor
        for name, tensor in (tensors | copies).items()
    }
    bert.save_pretrained(tmp_path, config, params)
    save_file({name: np.ascontiguousarray(t) for name, t in old.items()}, tmp_path / "model.safetensors")
    jax.tree.map(np.testing.assert_array_equal, bert.load_pretrained(tmp_path)[1], params)


def test_fresh_parameters_have_padding_at_zero(sibling):
    config, _ = ours(sibling)
    fresh = bert.init_params(config, jax.random.key(0))["embeddings"]
    assert not fresh["word"]["embedding"][config.pad_token_id].any()
    assert fresh["position"]["embedding"][1].any() == (config.model_type == "distilbert")
    assert ("token_type" in fresh) == (config.model_type == "roberta")


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"model_type": "distilbert", "n_heads": 7}, "dim 768 is not a multiple of n_heads 7"),
        ({"model_type": "distilbert", "activation": "mish"}, "activation is 'mish', expected one of gelu"),
        ({"model_type": "distilbert", "tie_word_embeddings": False}, "tie_word_embeddings is False"),
        ({"model_type": "roberta", "pad_token_id": None}, "pad_token_id is None, and roberta counts"),
        ({"model_type": "roberta", "max_position_embeddings": 2}, "max_position_embeddings is 2, expected m"),
        ({"model_type": "roberta", "is_decoder": True}, "is_decoder is True, only False is supported"),
        ({"model_type": ["roberta"]}, r"model_type is \['roberta'\], only 'bert', 'roberta' and"),
    ],
)
def test_a_fault_is_named_as_the_file_has_it(values, fault):
    with pytest.raises(bert.BertConfigError, match=fault):
        bert.BertConfig.from_hf(values)


@pytest.mark.parametrize("model_type", ["bert", *SIBLINGS])
def test_absent_keys_have_the_defaults_of_transformers(model_type):
    from transformers import AutoConfig

    assert bert.BertConfig.from_hf({"model_type": model_type}) == bert.BertConfig.from_hf(
        AutoConfig.for_model(model_type).to_dict()
    )


def test_distilbert_has_no_token_types():
    with pytest.raises(bert.BertConfigError, match="type_vocab_size is 2, in distilbert it is always 0"):
        bert.BertConfig(model_type="distilbert")
    model = torch_sibling("distilbert", **small_sizes("distilbert"))
    ids = jnp.ones((1, 4), jnp.int32)
    with pytest.raises(bert.BertInputError, match="distilbert has no token types"):
        bert.forward(*ours(model), ids, None, jnp.zeros_like(ids))
