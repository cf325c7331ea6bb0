"""Small random models of stock transformers, saved as folders with a tokenizer."""

from pathlib import Path
from typing import Any

import torch

from tests.megatron.export.tiny_checkpoint import write_tokenizer

SHAPE: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 72,
    "max_position_embeddings": 96,
}
KINDS: dict[str, dict[str, Any]] = {
    "gpt_neox": {"rotary_pct": 0.5, "use_parallel_residual": True},
    "gpt_neox sequential, tied": {"use_parallel_residual": False, "tie_word_embeddings": True, "hidden_act": "relu"},
    "llama": {},
    "llama grouped, biased": {"num_key_value_heads": 2, "attention_bias": True, "tie_word_embeddings": True},
    "mistral": {"num_key_value_heads": 2, "sliding_window": None},
    "qwen2": {"num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 1, "head_dim": 16},
    "llama of version 3.1": {
        "num_key_value_heads": 2,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    },
    "qwen2 with yarn": {
        "num_key_value_heads": 4,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 24,
        },
    },
}


def write_hf_model(folder: Path, kind: str, **changes: Any) -> Path:
    """A folder as `save_pretrained` leaves it, with tokenizer.json; every weight and bias random."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(kind.split()[0], **SHAPE | KINDS.get(kind, {}) | changes)
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    write_tokenizer(folder / "tokenizer.json")
    return folder
