"""From the arguments to a model, and layouts that cannot be."""

from dataclasses import replace

import pytest

from megatron.errors import SettingsError
from megatron.model.activations import activation_function
from megatron.model.config import ModelConfig, check_layout, model_config_from_args
from megatron.model.norms import Norm
from megatron.neox_arguments.load import arguments_from_texts
from sepllm.attention.rope_scaling import RopeScaling
from sepllm.config import SepConfig

BASE = ModelConfig(2, 24, 6, 2, 96, 256, 16, SepConfig(mode="full"))

YAML = """
num_layers: 2
hidden_size: 24
num_attention_heads: 6
num_kv_heads: 2
seq_length: 16
max_position_embeddings: 32
train_iters: 1
train_micro_batch_size_per_gpu: 1
optimizer: {type: Adam, params: {lr: 6.0e-4}}
separator_token_ids: [3, 5]
prefill_local_window_size: 4
pos_emb: rotary
rotary_pct: 0.5
"""


def _config(extra=""):
    return model_config_from_args(arguments_from_texts([("a.yml", YAML + extra)]), padded_vocab_size=256)


def test_sizes_and_attention():
    config = _config()
    assert (config.head_dim, config.rotary_dim, config.num_kv_heads, config.mlp_hidden_size) == (4, 2, 2, 96)
    assert config.attention.separators == (3, 5)
    assert [config.attention.window_for(layer) for layer in range(2)] == [4, 4]
    assert config.tied_embeddings and not config.parallel_residual and not config.mlp_gated
    assert config.activation == "gelu"


def test_forms():
    config = _config(
        "no_weight_tying: true\ngpt_j_residual: true\ngpt_j_tied: true\nnorm: rmsnorm\nrms_norm_epsilon: 1.0e-6\n"
        "bias_gelu_fusion: true\nUSE_BiPE: true\nBiPE_seps: [3]\nhidden_dropout: 0.1\ninit_method: small_init\n"
    )
    assert not config.tied_embeddings and config.parallel_residual and config.shared_residual_norm
    assert (config.norm, config.norm_epsilon) == ("rmsnorm", 1e-6)
    assert config.activation == "gelu_pytorch_tanh"
    assert config.bipe_separators == (3,) and config.has_position_table
    assert _config("USE_BiPE: true\nBiPE_seps: separators\n").bipe_separators == config.attention.separators != ()
    assert (config.hidden_dropout, config.init_method) == (0.1, "small_init")
    gated = _config("mlp_type: llama\nactivation: silu\nintermediate_size: 40\n")
    assert gated.mlp_gated and gated.mlp_hidden_size == 40
    assert _config("activation: geglu\n").mlp_gated


def test_newer_forms():
    plain = _config()
    assert plain.attention_dense_bias and plain.mlp_bias and plain.rope_scaling is None and plain.head_size is None
    qwen = _config("use_bias_in_attn_dense: false\nuse_bias_in_mlp: false\nhead_dim: 8\nlogits_soft_cap: 30\n")
    assert (qwen.attention_bias, qwen.attention_dense_bias, qwen.mlp_bias) == (True, False, False)
    assert (qwen.head_dim, qwen.rotary_dim, qwen.logits_soft_cap) == (8, 4, 30.0)
    assert not _config("use_bias_in_attn_linear: false\n").attention_dense_bias
    scaled = _config("rope_scaling: {rope_type: yarn, factor: 4, beta_fast: 24}\nz_loss: 1.0e-4\n")
    assert scaled.rope_scaling == RopeScaling("yarn", 4.0, 32, beta_fast=24.0)
    assert scaled.z_loss == 1e-4


@pytest.mark.parametrize(
    ("change", "tp_size", "found"),
    [
        ({}, 4, "num_attention_heads is 6, which 4 tensor ranks"),
        ({}, 3, "num_kv_heads is 2, which 3 tensor ranks"),
        ({"mlp_hidden_size": 97}, 2, "inner width is 97"),
        ({"padded_vocab_size": 255}, 2, "vocabulary is 255"),
        ({"num_kv_heads": 4}, 2, "6 query heads cannot share 4"),
        ({"hidden_size": 25}, 1, "hidden_size 25 is not a multiple"),
    ],
)
def test_layouts_that_cannot_be(change, tp_size, found):
    with pytest.raises(SettingsError, match=found):
        check_layout(replace(BASE, **change), tp_size)
    check_layout(BASE, 2)


def test_unknown_names():
    with pytest.raises(SettingsError, match=r"'gellu'; known are gelu"):
        activation_function("gellu")
    with pytest.raises(SettingsError, match=r"'batchnorm'; known are layernorm"):
        Norm("n", 4, kind="batchnorm", epsilon=1e-5)
