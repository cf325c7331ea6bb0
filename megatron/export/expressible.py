"""What an exported folder can say about a model; the rest is refused by name, never dropped in silence."""

from dataclasses import dataclass

from megatron.errors import SettingsError
from megatron.export.mup_folding import factors_fit
from megatron.model.config import ModelConfig

ARCHITECTURES = ("sepllm_gpt_neox", "neox")

# Activations by GPT-NeoX's names -> those of transformers that compute the same.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_pytorch_tanh",
    "relu": "relu",
    "swish": "silu",
    "silu": "silu",
    "mish": "mish",
}


@dataclass(frozen=True)
class Obstacle:
    """A setting that the target cannot express, and why."""

    setting: str
    reason: str


def check_expressible(config: ModelConfig, architecture: str, decode_windows: tuple[int, ...] | None) -> None:
    """Raise SettingsError listing every obstacle to exporting this model as `architecture`.

    decode_windows: one window per layer for cached decoding where it differs from the training window.
    """
    if architecture not in ARCHITECTURES:
        raise SettingsError(
            f"architecture {architecture!r} is unknown; choose one of {', '.join(ARCHITECTURES)} (--architecture)."
        )
    found = obstacles(config, decode_windows)
    if architecture == "neox":
        found += _only_ours(config)
    if found:
        listed = "\n".join(f"  {obstacle.setting}: {obstacle.reason}" for obstacle in found)
        raise SettingsError(
            f"This model cannot be written as {architecture}: the folder would compute something else.\n{listed}"
        )


def obstacles(config: ModelConfig, decode_windows: tuple[int, ...] | None = None) -> list[Obstacle]:
    """What no exported form can express."""
    checks = [
        (config.norm != "layernorm", f"norm {config.norm}", "GPT-NeoX's layers have layernorm"),
        (not config.norm_bias, "use_bias_in_norms false", "GPT-NeoX's layernorm has a bias"),
        (config.qk_layernorm, "use_qk_layernorm", "GPT-NeoX's layers have no norm on queries and keys"),
        (config.mlp_gated, "gated MLP (mlp_type llama, activation geglu)", "GPT-NeoX's MLP has two matrices"),
        (not config.mlp_bias, "use_bias_in_mlp false", "GPT-NeoX's MLP has biases"),
        (
            config.attention_dense_bias != config.attention_bias,
            f"use_bias_in_attn_dense {str(config.attention_dense_bias).lower()}",
            "GPT-NeoX's attention has biases in both projections or in none",
        ),
        (
            config.head_dim * config.num_attention_heads != config.hidden_size,
            f"head_dim {config.head_dim}",
            "GPT-NeoX's heads share hidden_size evenly",
        ),
        (
            config.rope_scaling is not None and config.pos_emb == "rotary",
            f"rope_scaling {config.rope_scaling.kind if config.rope_scaling else ''}",
            "the exported model has the plain rotary frequencies",
        ),
        (config.logits_soft_cap is not None, "logits_soft_cap", "GPT-NeoX's logits are not capped"),
        (
            config.num_kv_heads != config.num_attention_heads,
            f"num_kv_heads {config.num_kv_heads}",
            f"GPT-NeoX's {config.num_attention_heads} heads have keys and values of their own",
        ),
        (config.shared_residual_norm, "gpt_j_tied", "GPT-NeoX's parallel branches have a norm each"),
        (config.bipe_separators is not None, "USE_BiPE", "the exported model has one position per token"),
        (config.softmax != "softmax", f"softmax {config.softmax}", "the exported model uses the ordinary softmax"),
        (
            config.pos_emb not in ("rotary", "learned", "none"),
            f"pos_emb {config.pos_emb}",
            "the exported model knows rotary, learned and none",
        ),
        (
            not factors_fit(config),
            "use_mup",
            "its factors go into the weights, and a table tied to the head, or queries with a norm, cannot take them",
        ),
        (config.position_offset != 0, f"opt_pos_emb_offset {config.position_offset}", "positions start at 0"),
        (
            config.activation not in ACTIVATIONS and not config.mlp_gated,
            f"activation {config.activation}",
            f"known are {', '.join(ACTIVATIONS)}",
        ),
        (
            decode_windows is not None,
            f"generate windows {decode_windows}",
            "the exported model has one window per layer, for reading and generating alike; "
            "remove generate_local_window_size and its list to export it with the training windows",
        ),
    ]
    return [Obstacle(setting, reason) for present, setting, reason in checks if present]


def _only_ours(config: ModelConfig) -> list[Obstacle]:
    """What sepllm_gpt_neox can express and the stock gpt_neox of transformers cannot."""
    odd = int(config.head_dim * config.rotary_pct) != config.rotary_dim
    checks = [
        (
            config.attention.mode != "full",
            f"attention mode {config.attention.mode}",
            "stock gpt_neox attends to everything; use --architecture sepllm_gpt_neox",
        ),
        (config.pos_emb != "rotary", f"pos_emb {config.pos_emb}", "stock gpt_neox is rotary"),
        (odd, f"rotary_pct {config.rotary_pct}", "stock gpt_neox would rotate an odd number of dimensions"),
    ]
    return [Obstacle(setting, reason) for present, setting, reason in checks if present]
