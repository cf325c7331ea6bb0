"""config.json and generation_config.json of an exported folder, readable by transformers 4.56 and later."""

from typing import Any

from megatron.export.expressible import ACTIVATIONS
from megatron.model.config import ModelConfig
from megatron.tokenizer.tokenizer import Tokenizer
from sepllm.config import SepConfig
from sepllm.hf.code_files import AUTO_MAP

HF_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def hf_config(config: ModelConfig, tokenizer: Tokenizer, architecture: str, precision: str) -> dict[str, Any]:
    """Content of config.json. Assumes that check_expressible has passed."""
    content: dict[str, Any] = {
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": "gpt_neox",
        "vocab_size": config.padded_vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_attention_heads,
        "intermediate_size": config.mlp_hidden_size,
        "hidden_act": ACTIVATIONS[config.activation],
        "attention_dropout": config.attention_dropout,
        "hidden_dropout": config.hidden_dropout,
        "max_position_embeddings": config.max_position_embeddings,
        "initializer_range": config.init_std,
        "layer_norm_eps": config.norm_epsilon,
        "attention_bias": config.attention_bias,
        "use_parallel_residual": config.parallel_residual,
        "tie_word_embeddings": config.tied_embeddings,
        "use_cache": True,
        "bos_token_id": tokenizer.eod,
        "eos_token_id": tokenizer.eod,
        "pad_token_id": tokenizer.eod,
        # transformers 4 reads the first two and torch_dtype, transformers 5 the third and dtype.
        "rotary_pct": config.rotary_pct,
        "rotary_emb_base": config.rotary_base,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": float(config.rotary_base),
            "partial_rotary_factor": config.rotary_pct,
        },
        "torch_dtype": HF_DTYPES[precision],
        "dtype": HF_DTYPES[precision],
    }
    if architecture == "sepllm_gpt_neox":
        content |= {
            "architectures": ["SepLLMGPTNeoXForCausalLM"],
            "model_type": "sepllm_gpt_neox",
            "auto_map": AUTO_MAP,
            "position_embedding": config.pos_emb,
            "sepllm": rule_settings(config.attention, config.num_layers),
        }
    return content


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
