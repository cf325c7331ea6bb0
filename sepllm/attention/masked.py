"""The masked path: PyTorch's own attention with the dense mask of the rule. Best for short sequences.

A plan that is plain causal goes to the causal kernel and builds no mask. Memory seq x seq otherwise.
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from sepllm.attention.plan import Plan


def masked_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    plan: Plan,
    scale: float,
    bias: Tensor | None,
    dropout_p: float,
) -> Tensor:
    """query [batch, heads, q, dim], key and value [batch, kv_heads, seq, dim] -> [batch, heads, q, dim].

    bias: [batch or 1, heads, q, seq], added to the scaled scores, or None.
    """
    queries = query.shape[2]
    mask: Tensor | None = None
    causal = False
    if plan.is_plain_causal and bias is None:
        causal = queries == plan.seq and queries > 1
    if not causal and not (plan.is_plain_causal and bias is None and queries == 1):
        keep = plan.dense_mask if queries == plan.seq else plan.mask_for(queries)
        mask = keep[:1, None] if plan.is_plain_causal else keep[:, None]  # one for all rows where they are alike
        if bias is not None:
            mask = torch.where(mask, bias.to(query.dtype), -torch.inf)
    return scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=dropout_p,
        is_causal=causal,
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )
