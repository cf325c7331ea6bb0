"""Tiny models of transformers with random weights, large enough that a wrong mask shows in the logits."""

from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    FalconConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PhiConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

SEPARATORS = (5, 6, 7)
VOCAB = 61
_SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
}
_GQA = {"num_key_value_heads": 2}
CONFIGS: dict[str, Any] = {
    "llama": lambda: LlamaConfig(**_SIZES, **_GQA),
    "llama31": lambda: LlamaConfig(
        **_SIZES,
        **_GQA,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    ),
    "gpt_neox": lambda: GPTNeoXConfig(**_SIZES, rotary_pct=0.5),
    "qwen2": lambda: Qwen2Config(**_SIZES, **_GQA),
    "qwen3": lambda: Qwen3Config(**_SIZES, **_GQA, head_dim=8),
    "mistral": lambda: MistralConfig(**_SIZES, **_GQA, sliding_window=None),
    "phi": lambda: PhiConfig(**_SIZES),
    "gemma": lambda: GemmaConfig(**_SIZES, **_GQA, head_dim=8),
    "falcon": lambda: FalconConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        alibi=False,
        new_decoder_architecture=True,
        num_kv_heads=2,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    ),
    "gpt2": lambda: GPT2Config(
        vocab_size=VOCAB,
        n_embd=32,
        n_layer=3,
        n_head=4,
        n_positions=512,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    ),
}


def tiny_model(family: str, seed: int = 0, **settings: Any) -> PreTrainedModel:
    """In float32 and evaluation mode."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(CONFIGS[family](), **settings)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.15)
        elif "bias" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def tokens(rows: int, length: int, seed: int = 0, share: float = 0.2) -> Tensor:
    """Random ids from 8 on, `share` of them separators. int64 [rows, length]."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(8, VOCAB, (rows, length), generator=generator)
    separators = torch.tensor(SEPARATORS)[torch.randint(0, 3, (rows, length), generator=generator)]
    return torch.where(torch.rand(rows, length, generator=generator) < share, separators, ids)


def padded(texts: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Texts [length] side by side, padded on the left with 0: ids and attention mask, int64 [rows, longest]."""
    longest = max(len(text) for text in texts)
    ids = torch.stack([torch.nn.functional.pad(text, (longest - len(text), 0)) for text in texts])
    mask = torch.stack([(torch.arange(longest) >= longest - len(text)).long() for text in texts])
    return ids, mask
