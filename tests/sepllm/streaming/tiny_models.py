"""Tiny random models of several architectures, in float64 so that equality means equality."""

from types import MethodType
from typing import Any

import torch

SHAPE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 4096,
}
KINDS: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2},
    "gpt_neox": {"rotary_pct": 0.5},
    "qwen3": {"num_key_value_heads": 1, "head_dim": 16},
    "mistral": {"num_key_value_heads": 2, "sliding_window": None},
}


def tiny_model(kind: str, dtype: torch.dtype = torch.float64, **changes: Any) -> Any:
    """A causal LM with weights large enough for attention to matter."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SHAPE | KINDS.get(kind, {}) | changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model = model.to(dtype).eval()
    for module in model.modules():
        if hasattr(module, "inv_freq") and dtype == torch.float64:
            module.forward = MethodType(_exact_tables, module)
    return model


def _exact_tables(rotary: Any, states: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """transformers rounds its angles to float32, which would hide differences below 1e-6."""
    angles = position_ids[..., None].double() * rotary.inv_freq.double()
    both = torch.cat((angles, angles), dim=-1)
    return both.cos() * rotary.attention_scaling, both.sin() * rotary.attention_scaling


def random_ids(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 64, (count,), generator=torch.Generator().manual_seed(seed))
