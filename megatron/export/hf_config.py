"""config.json and generation_config.json of an exported folder, readable by transformers 4.56 and later."""

from dataclasses import asdict
from typing import Any

from megatron.export.expressible import ACTIVATIONS, Architecture
from megatron.model.config import ModelConfig
from megatron.tokenizer.tokenizer import Tokenizer
from sepllm.attention.rope_scaling import RopeScaling
from sepllm.config import SepConfig
from sepllm.hf.code_files import auto_map

HF_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def hf_config(config: ModelConfig, tokenizer: Tokenizer, architecture: Architecture, precision: str) -> dict[str, Any]:
    """Content of config.json. The architecture is one that `choose_architecture` gave for this model."""
    content: dict[str, Any] = {
        "architectures": [architecture.class_name],
        "model_type": architecture.model_type,
        "vocab_size": config.padded_vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_attention_heads,
        "intermediate_size": config.mlp_hidden_size,
        "hidden_act": ACTIVATIONS[config.activation],
        "attention_dropout": config.attention_dropout,
        "max_position_embeddings": config.max_position_embeddings,
        "initializer_range": config.init_std,
        "attention_bias": config.attention_bias,
        "tie_word_embeddings": config.tied_embeddings,
        "use_cache": True,
        "bos_token_id": tokenizer.eod,
        "eos_token_id": tokenizer.eod,
        "pad_token_id": tokenizer.eod,
        # transformers 4 reads torch_dtype, transformers 5 dtype.
        "torch_dtype": HF_DTYPES[precision],
        "dtype": HF_DTYPES[precision],
    }
    if architecture.is_ours:
        return content | _neox_keys(config) | _our_keys(config) | {"auto_map": auto_map(architecture.model_type)}
    if architecture.family == "gpt_neox":
        return content | _neox_keys(config) | _rope(config)
    return content | _llama_keys(config) | _rope(config)


def _neox_keys(config: ModelConfig) -> dict[str, Any]:
    return {
        "hidden_dropout": config.hidden_dropout,
        "layer_norm_eps": config.norm_epsilon,
        "use_parallel_residual": config.parallel_residual,
        # transformers 4 reads these two, transformers 5 rope_parameters.
        "rotary_pct": config.rotary_pct,
        "rotary_emb_base": config.rotary_base,
        "rope_parameters": _rope_parameters(config),
    }


def _llama_keys(config: ModelConfig) -> dict[str, Any]:
    return {
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.norm_epsilon,
        "mlp_bias": False,
        "sliding_window": None,
        "use_sliding_window": False,
        "rope_theta": float(config.rotary_base),
    }


def _our_keys(config: ModelConfig) -> dict[str, Any]:
    """Everything about the model that GPT-NeoX's keys leave open; nothing is left to defaults."""
    return {
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "gated_mlp": config.mlp_gated,
        "mlp_bias": config.mlp_bias and not config.mlp_gated,
        "attention_out_bias": config.attention_dense_bias,
        "qk_norm": config.qk_layernorm,
        "norm": config.norm,
        "norm_bias": config.norm_bias,
        "shared_residual_norm": config.shared_residual_norm,
        "position_embedding": config.pos_emb,
        "position_offset": config.position_offset,
        "rotary_scaling": None if config.rope_scaling is None else asdict(config.rope_scaling),
        "bilevel_separators": None if config.bipe_separators is None else list(config.bipe_separators),
        "softmax": {
            "kind": config.softmax,
            "numerator_bias": config.softmax_numerator_bias,
            "denominator_bias": config.softmax_denominator_bias,
        },
        "attention_scale": config.attention_scale,
        "embedding_multiplier": config.embedding_multiplier,
        "logit_multiplier": config.logit_multiplier,
        "logits_soft_cap": config.logits_soft_cap,
        "end_of_document": config.end_of_document,
        "sepllm": rule_settings(config.attention, config.num_layers),
    }


def _rope(config: ModelConfig) -> dict[str, Any]:
    """The rotary frequencies of a stock class: transformers 4 reads rope_scaling, transformers 5 rope_parameters."""
    parameters = _rope_parameters(config) | _scaling(config.rope_scaling)
    return {"rope_parameters": parameters} | ({} if config.rope_scaling is None else {"rope_scaling": parameters})


def _rope_parameters(config: ModelConfig) -> dict[str, Any]:
    return {
        "rope_type": "default",
        "rope_theta": float(config.rotary_base),
        "partial_rotary_factor": config.rotary_pct,
    }


def _scaling(scaling: RopeScaling | None) -> dict[str, Any]:
    """transformers' entries for scaled rotary frequencies; empty for plain ones."""
    if scaling is None:
        return {}
    entries: dict[str, Any] = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind != "linear":
        entries["original_max_position_embeddings"] = scaling.original_length
    if scaling.kind == "yarn":
        entries |= {
            "beta_fast": scaling.beta_fast,
            "beta_slow": scaling.beta_slow,
            "truncate": scaling.truncate,
            "attention_factor": scaling.amplitude,
        }
    if scaling.kind == "llama3":
        entries |= {"low_freq_factor": scaling.low_frequency, "high_freq_factor": scaling.high_frequency}
    return entries


def rule_settings(attention: SepConfig, num_layers: int) -> dict[str, Any]:
    """The separator rule in full: a window for every layer, every separator id, nothing left to defaults."""
    fixed = attention.mode == "fixed"
    return {
        "mode": attention.mode,
        "separator_token_ids": list(attention.separators),
        "init_tokens": attention.init_tokens,
        "window": [attention.window_for(layer) for layer in range(num_layers)],
        "interval": [attention.interval_for(layer) for layer in range(num_layers)] if fixed else None,
        "max_separators": attention.max_separators,
        "capacity": attention.capacity,
        "init_per_document": attention.init_per_document,
    }


def generation_config(config: ModelConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """Greedy by default; the rows that only pad the vocabulary are never generated."""
    padding = list(range(tokenizer.vocab_size, config.padded_vocab_size))
    content: dict[str, Any] = {
        "do_sample": False,
        "bos_token_id": tokenizer.eod,
        "eos_token_id": tokenizer.eod,
        "pad_token_id": tokenizer.eod,
    }
    return content | ({"suppress_tokens": padding} if padding else {})
