"""Separator attention under the name "sepllm" in transformers' registry of attention functions.

The hook on a model (model_hook.py) hands each forward pass a step, and models hand their keyword arguments down to
this function: nothing is remembered between passes, so passes may interleave and be recomputed.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from sepllm.errors import ConfigError, UnsupportedError

NAME = "sepllm"
STEP = "sepllm_step"
DENSE = "dense"  # the step of a connected model that is used without rule and without SepCache
# Arguments that change what attention computes, and that no path here knows.
_FOREIGN = ("softcap", "s_aux", "sliding_window", "position_bias", "head_mask")


def sepllm_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """query [batch, heads, new, dim], key and value [batch, kv_heads, seq, dim] -> [batch, new, heads, dim]."""
    step = kwargs.pop(STEP, None)
    if step is None:
        raise ConfigError(
            "attn_implementation='sepllm' was asked for, but no rule arrived in this layer. "
            "Call sepllm.enable(model, config), or make a cache with SepCache.for_model(model)."
        )
    if isinstance(step, str):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    foreign = [name for name in _FOREIGN if kwargs.get(name) is not None]
    if foreign:
        raise UnsupportedError(
            f"{type(module).__name__} asks for {', '.join(foreign)}, which separator attention does not compute."
        )
    layer: Any = module.layer_idx
    return step.attend(layer, query, key, value, scaling, dropout).transpose(1, 2).contiguous(), None


def no_mask(device: torch.device) -> Tensor:
    """A mask that transformers passes on as it is, and that fails in any attention but the one above."""
    return torch.empty(0, 0, 0, 0, dtype=torch.bool, device=device)


AttentionInterface.register(NAME, sepllm_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
