"""What a folder cannot say is refused by name; what it can is let through; auto takes stock classes where they fit."""

from dataclasses import replace

import pytest

from megatron.errors import SettingsError
from megatron.export.expressible import choose_architecture
from megatron.model.config import ModelConfig
from megatron.neox_arguments.optimization_settings import MupSettings
from sepllm.attention.rope_scaling import RopeScaling
from sepllm.config import SepConfig

CONFIG = ModelConfig(
    num_layers=2,
    hidden_size=32,
    num_attention_heads=4,
    num_kv_heads=4,
    mlp_hidden_size=64,
    padded_vocab_size=64,
    max_position_embeddings=32,
    attention=SepConfig(separators=[3], window=8),
)
FULL = replace(CONFIG, attention=SepConfig(mode="full"))
LLAMA = replace(
    FULL, norm="rmsnorm", mlp_gated=True, activation="silu", attention_bias=False, attention_dense_bias=False
)
MUP = MupSettings(2.0, 16, 8, 1.0, 1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"attention": CONFIG.attention}, "attention mode sepllm"),
        ({"end_of_document": 0}, "attention_document_mask"),
        ({"pos_emb": "none"}, "pos_emb none"),
        ({"bipe_separators": (3,)}, "USE_BiPE"),
        ({"softmax": "sa"}, "softmax sa"),
        ({"logits_soft_cap": 30.0}, "logits_soft_cap"),
        ({"mup": MUP, "tied_embeddings": True}, "use_mup"),
        ({"parallel_residual": True, "shared_residual_norm": True}, "gpt_j_tied"),
        ({"activation": "softsign"}, "activation softsign"),
        ({"rope_scaling": RopeScaling("ntk", 4.0, 16)}, "rope_scaling ntk"),
    ],
)
@pytest.mark.parametrize(("kind", "base"), [("neox", FULL), ("llama", LLAMA)])
def test_no_stock_class_says_this(changes: dict, name: str, kind: str, base: ModelConfig) -> None:
    config = replace(base, **changes)
    choose_architecture(base, kind, None)
    with pytest.raises(SettingsError, match=f"(?s)cannot be written as {kind}.*{name}"):
        choose_architecture(config, kind, None)
    assert choose_architecture(config, "auto", None).is_ours


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"norm": "rmsnorm"}, "norm rmsnorm"),
        ({"norm_bias": False}, "use_bias_in_norms"),
        ({"qk_layernorm": True}, "use_qk_layernorm"),
        ({"mlp_gated": True}, "gated MLP"),
        ({"num_kv_heads": 2}, "num_kv_heads 2"),
        ({"mlp_bias": False}, "use_bias_in_mlp false"),
        ({"attention_dense_bias": False}, "use_bias_in_attn_dense false"),
        ({"head_size": 16}, "head_dim 16"),
        ({"rotary_pct": 0.4}, "rotary_pct 0.4"),  # 3 of 8 dimensions
    ],
)
def test_stock_gpt_neox_has_its_own_obstacles(changes: dict, name: str) -> None:
    with pytest.raises(SettingsError, match=name):
        choose_architecture(replace(FULL, **changes), "neox", None)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"norm": "layernorm"}, "norm layernorm"),
        ({"mlp_gated": False}, "MLP of two matrices"),
        ({"parallel_residual": True}, "gpt_j_residual"),
        ({"rotary_pct": 0.5}, "rotary_pct 0.5"),
        ({"hidden_dropout": 0.1}, "hidden_dropout 0.1"),
        ({"qk_layernorm": True}, "use_qk_layernorm true"),
        ({"attention_bias": True}, r"attention biases \(true, after attention false\)"),
    ],
)
def test_stock_llama_has_its_own_obstacles(changes: dict, name: str) -> None:
    with pytest.raises(SettingsError, match=name):
        choose_architecture(replace(LLAMA, **changes), "llama", None)


@pytest.mark.parametrize(
    ("config", "chosen"),
    [
        (CONFIG, "sepllm_gpt_neox"),
        (replace(LLAMA, attention=CONFIG.attention), "sepllm_llama"),
        (FULL, "gpt_neox"),
        (LLAMA, "llama"),
        (replace(LLAMA, attention_bias=True), "sepllm_llama"),
        (replace(LLAMA, qk_layernorm=True), "qwen3"),
        (replace(LLAMA, norm_bias=False, num_kv_heads=2, head_size=16), "llama"),
        (replace(FULL, norm="scalenorm"), "sepllm_gpt_neox"),
    ],
)
def test_auto_takes_the_first_class_that_fits(config: ModelConfig, chosen: str) -> None:
    assert choose_architecture(config, "auto", None).model_type == chosen


def test_all_obstacles_are_listed_together_with_reasons() -> None:
    config = replace(FULL, norm="rmsnorm", softmax="sa")
    with pytest.raises(SettingsError, match=r"(?s)generate windows \(4, 4\).*softmax sa: .*norm rmsnorm: .*layernorm"):
        choose_architecture(config, "neox", (4, 4))
    with pytest.raises(SettingsError, match="generate windows"):
        choose_architecture(CONFIG, "auto", (4, 4))


def test_unknown_names_get_their_neighbours() -> None:
    with pytest.raises(SettingsError, match=r"'lama' is unknown.*Did you mean 'llama'"):
        choose_architecture(FULL, "lama", None)
