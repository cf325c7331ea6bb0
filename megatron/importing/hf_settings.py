"""config.json of a Hugging Face model -> our settings of the same model, or a refusal that names what is in the way."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from megatron.errors import SettingsError
from megatron.importing.sepllm_settings import obstacles_of_ours, settings_from_ours

Config = dict[str, Any]
# transformers' activations -> ours that compute the same
_ACTIVATIONS: dict[str, dict[str, Any]] = {
    "gelu": {"activation": "gelu"},
    "gelu_new": {"activation": "gelu", "bias_gelu_fusion": True},
    "gelu_fast": {"activation": "gelu", "bias_gelu_fusion": True},
    "gelu_pytorch_tanh": {"activation": "gelu", "bias_gelu_fusion": True},
    "relu": {"activation": "relu"},
    "silu": {"activation": "silu"},
    "swish": {"activation": "silu"},
    "mish": {"activation": "mish"},
    "softsign": {"activation": "softsign"},
}
# rope_type -> entries of transformers' block that have the same name and meaning here
_ROPE_ENTRIES = {
    "linear": ("factor",),
    "yarn": (
        "factor",
        "original_max_position_embeddings",
        "attention_factor",
        "beta_fast",
        "beta_slow",
        "truncate",
    ),
    "llama3": ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
}


@dataclass(frozen=True)
class Source:
    """family: names of the tensors (export.tensor_map). settings: config.json -> keys of the model's shape.

    obstacles: sentences about what a config of this kind says that our models cannot be.
    """

    family: str
    settings: Callable[[Config], dict[str, Any]]
    obstacles: Callable[[Config], list[str]] = lambda config: []


def settings_from_hf(config: Config) -> dict[str, Any]:
    """Keys of the shape, positions, norms and attention of the model; training keys are left to the user.

    Raises SettingsError listing everything in config.json that our models do not have.
    """
    source = source_of(config)
    try:
        return _settings_of(config, source)
    except KeyError as missing:
        raise SettingsError(
            f"config.json says model_type {config['model_type']!r} but lacks {missing}, which such a model has. "
            "Was it written by hand, or cut?"
        ) from None


def _settings_of(config: Config, source: Source) -> dict[str, Any]:
    problems = [problem for problem in _obstacles(config) if problem] + source.obstacles(config)
    if problems:
        listed = "\n".join(f"  {problem}" for problem in problems)
        raise SettingsError(f"This {config['model_type']} model cannot be imported:\n{listed}")
    return _common(config) | source.settings(config)


def source_of(config: Config) -> Source:
    """How to read a model of this `model_type`; SettingsError for an unknown one."""
    kind = config.get("model_type")
    if kind not in SOURCES:
        raise SettingsError(f"model_type {kind!r} cannot be imported; known are {', '.join(SOURCES)}.")
    return SOURCES[kind]


def _common(config: Config) -> dict[str, Any]:
    return {
        "num_layers": config["num_hidden_layers"],
        "hidden_size": config["hidden_size"],
        "num_attention_heads": config["num_attention_heads"],
        "intermediate_size": config["intermediate_size"],
        "max_position_embeddings": config["max_position_embeddings"],
        "make_vocab_size_divisible_by": config["vocab_size"],  # rounds the tokenizer's size up to exactly this
        "init_method_std": config.get("initializer_range", 0.02),
        "attention_dropout": config.get("attention_dropout", 0.0),
        "no_weight_tying": not config.get("tie_word_embeddings", False),
        **_ACTIVATIONS.get(config["hidden_act"], {}),
    }


def _gpt_neox(config: Config) -> dict[str, Any]:
    rope = config.get("rope_parameters") or {}
    return {
        "norm": "layernorm",
        "layernorm_epsilon": config["layer_norm_eps"],
        "pos_emb": "rotary",
        "rotary_pct": config.get("rotary_pct", rope.get("partial_rotary_factor", 0.25)),
        "rotary_emb_base": _rotary_base(config),
        **_rope_scaling(config),
        "gpt_j_residual": config.get("use_parallel_residual", True),
        "use_bias_in_attn_linear": config.get("attention_bias", True),
        "hidden_dropout": config.get("hidden_dropout", 0.0),
    }


def _llama(config: Config) -> dict[str, Any]:
    return {
        "num_kv_heads": config.get("num_key_value_heads") or config["num_attention_heads"],
        "norm": "rmsnorm",
        "rms_norm_epsilon": config["rms_norm_eps"],
        "pos_emb": "rotary",
        "rotary_pct": 1.0,
        "rotary_emb_base": _rotary_base(config),
        **_rope_scaling(config),
        **({"head_dim": config["head_dim"]} if config.get("head_dim") else {}),
        "mlp_type": "llama",
        "use_bias_in_attn_linear": config.get("attention_bias", False),
    }


def _qwen2(config: Config) -> dict[str, Any]:
    return _llama(config) | {"use_bias_in_attn_linear": True, "use_bias_in_attn_dense": False}


def _qwen3(config: Config) -> dict[str, Any]:
    return _llama(config) | {"use_qk_layernorm": True}


def _rotary_base(config: Config) -> int:
    return int(config.get("rotary_emb_base") or config.get("rope_theta") or _rope(config).get("rope_theta", 10000))


def _rope(config: Config) -> dict[str, Any]:
    """The block on rotary frequencies: transformers 4 calls it rope_scaling, transformers 5 rope_parameters."""
    return config.get("rope_scaling") or config.get("rope_parameters") or {}


def _rope_kind(config: Config) -> str:
    return str(_rope(config).get("rope_type", _rope(config).get("type", "default")))


def _rope_scaling(config: Config) -> dict[str, Any]:
    kind = _rope_kind(config)
    if kind == "default":
        return {}
    entries = {key: _rope(config)[key] for key in _ROPE_ENTRIES[kind] if _rope(config).get(key) is not None}
    return {"rope_scaling": {"rope_type": kind} | entries}


def _obstacles(config: Config) -> list[str | None]:
    """Sentences about what our models cannot be."""
    kind = _rope_kind(config)
    window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    activation = config.get("hidden_act")
    base = _rotary_base(config)
    stated = config.get("rotary_emb_base") or config.get("rope_theta") or _rope(config).get("rope_theta", base)
    return [
        None
        if activation in _ACTIVATIONS or config.get("gated_mlp")
        else f"hidden_act {activation!r}: not among {', '.join(_ACTIVATIONS)}, which have an equal of ours",
        None
        if kind == "default" or kind in _ROPE_ENTRIES
        else f"rope scaling {kind!r}: known are {', '.join(_ROPE_ENTRIES)}",
        None if stated == base else f"rotary base {stated}: it must be a whole number here",
        "mlp_bias: gated MLPs have no biases here"
        if config.get("mlp_bias") and config.get("gated_mlp", True)
        else None,
        None
        if window is None or window >= config.get("max_position_embeddings", 0)
        else f"sliding_window {window}: attention is full or SepLLM's (streamingLLM is the nearest)",
    ]


SOURCES = {
    "gpt_neox": Source("gpt_neox", _gpt_neox),
    "sepllm_gpt_neox": Source("gpt_neox", settings_from_ours, obstacles_of_ours),
    "sepllm_llama": Source("llama", settings_from_ours, obstacles_of_ours),
    "llama": Source("llama", _llama),
    "mistral": Source("llama", _llama),
    "qwen2": Source("llama", _qwen2),
    "qwen3": Source("llama", _qwen3),
}
