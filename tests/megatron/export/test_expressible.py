"""What a folder cannot say is refused by name; what it can is let through."""

from dataclasses import replace

import pytest

from megatron.errors import SettingsError
from megatron.export.expressible import check_expressible
from megatron.model.config import ModelConfig
from megatron.model.rope_scaling import RopeScaling
from megatron.neox_arguments.optimization import MupSettings
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


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"norm": "rmsnorm"}, "norm rmsnorm"),
        ({"norm": "scalenorm"}, "norm scalenorm"),
        ({"norm_bias": False}, "use_bias_in_norms"),
        ({"qk_layernorm": True}, "use_qk_layernorm"),
        ({"mlp_gated": True}, "gated MLP"),
        ({"num_kv_heads": 2}, "num_kv_heads 2"),
        ({"parallel_residual": True, "shared_residual_norm": True}, "gpt_j_tied"),
        ({"bipe_separators": (3,)}, "USE_BiPE"),
        ({"softmax": "sa"}, "softmax sa"),
        ({"softmax": "no_denominator"}, "softmax no_denominator"),
        ({"pos_emb": "alibi"}, "pos_emb alibi"),
        ({"pos_emb": "sinusoidal"}, "pos_emb sinusoidal"),
        ({"pos_emb": "learned", "position_offset": 2}, "opt_pos_emb_offset 2"),
        ({"activation": "softsign"}, "activation softsign"),
        ({"mlp_bias": False}, "use_bias_in_mlp false"),
        ({"attention_dense_bias": False}, "use_bias_in_attn_dense false"),
        ({"head_size": 16}, "head_dim 16"),
        ({"rope_scaling": RopeScaling("yarn", 4.0, 16)}, "rope_scaling yarn"),
        ({"logits_soft_cap": 30.0}, "logits_soft_cap"),
        ({"mup": MupSettings(2.0, 16, 8, 1.0, 1.0, 1.0, 1.0), "tied_embeddings": True}, "use_mup"),
    ],
)
def test_each_obstacle_is_named(changes: dict, name: str) -> None:
    check_expressible(CONFIG, "sepllm_gpt_neox", None)
    with pytest.raises(SettingsError, match=name):
        check_expressible(replace(CONFIG, **changes), "sepllm_gpt_neox", None)


def test_all_obstacles_are_listed_together_with_reasons() -> None:
    config = replace(CONFIG, norm="rmsnorm", softmax="sa")
    with pytest.raises(SettingsError, match=r"(?s)norm rmsnorm: .*layernorm.*softmax sa: .*generate windows \(4, 4\)"):
        check_expressible(config, "sepllm_gpt_neox", (4, 4))


def test_stock_gpt_neox_takes_full_rotary_attention_only() -> None:
    full = replace(CONFIG, attention=SepConfig(mode="full"))
    check_expressible(full, "neox", None)
    for config, name in (
        (CONFIG, "attention mode sepllm"),
        (replace(full, pos_emb="none"), "pos_emb none"),
        (replace(full, rotary_pct=0.4), "rotary_pct 0.4"),  # 3 of 8 dimensions
    ):
        with pytest.raises(SettingsError, match=name):
            check_expressible(config, "neox", None)
    with pytest.raises(SettingsError, match="'llama' is unknown"):
        check_expressible(full, "llama", None)
