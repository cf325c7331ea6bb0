"""The reference path: dense scores, dense mask, nothing clever. Slow on purpose; any device, any type.

Computes in float32 at least (float64 stays float64). The oracle of the Self-Adjusting softmaxes too, and their path
for dropout and for few queries.
"""

import torch
from torch import Tensor

from sepllm.attention.plan import Plan
from sepllm.attention.self_adjusting import self_adjusting_probs


def reference_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    plan: Plan,
    scale: float,
    bias: Tensor | None,
    softmax: str,
    numerator_bias: float,
    denominator_bias: float,
    dropout_p: float,
) -> Tensor:
    """query [batch, heads, q, dim], key and value [batch, kv_heads, seq, dim] -> [batch, heads, q, dim].

    bias: [batch or 1, heads, q, seq], added to the scaled scores, or None.
    """
    dtype = torch.promote_types(query.dtype, torch.float32)
    groups = query.shape[1] // key.shape[1]
    with torch.autocast(query.device.type, enabled=False):
        k = key.to(dtype).repeat_interleave(groups, dim=1)
        v = value.to(dtype).repeat_interleave(groups, dim=1)
        scores = query.to(dtype) @ k.transpose(-1, -2) * scale  # [b, h, q, k]
        if bias is not None:
            scores = scores + bias.to(dtype)
        queries = query.shape[2]
        keep = plan.mask_for(queries)[:, None]
        if softmax == "softmax":
            probs = scores.masked_fill(~keep, -torch.inf).softmax(dim=-1)
        else:
            past = plan.causal_mask_for(queries)[:, None]
            probs = self_adjusting_probs(scores, keep, numerator_bias, denominator_bias, variant=softmax, past=past)
        probs = torch.nn.functional.dropout(probs, dropout_p)
        return (probs @ v).to(query.dtype)
