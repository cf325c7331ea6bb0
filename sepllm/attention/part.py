"""Attention over one part of the keys, with the log-sum-exp by which parts are merged, and its backward pass.

On a CPU these are the two operations behind PyTorch's own attention, which it does not offer by a public name;
elsewhere, and for what they cannot do, the same in a few dense operations.
"""

import torch
from torch import Tensor

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def attend_part(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    """Softmax attention of queries over these keys alone, and the log of the softmax's denominator.

    query: [b, h, q, dim]; key, value: [b, h, k, dim], k at least 1; bias: broadcasts to [b, h, q, k], -inf hides
    -> [b, h, q, dim] and [b, h, q]. Where every key of a query is hidden: zeros, and a number without meaning.
    """
    if _has_operations(query, key, value):
        return _forward(query, key, value, 0.0, False, attn_mask=bias, scale=scale)
    scores = _scores(query, key, bias, scale)
    lse = scores.logsumexp(dim=-1)
    return _probs(scores, lse) @ value, lse


def part_gradients(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    bias: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """What this part adds to the gradients of query, key and value, given out and lse of all parts together."""
    if _has_operations(query, key, value):
        return _backward(grad_out, query, key, value, out, lse, 0.0, False, attn_mask=bias, scale=scale)
    probs = _probs(_scores(query, key, bias, scale), lse)
    mean = (grad_out * out).sum(dim=-1, keepdim=True)
    d_scores = (grad_out @ value.transpose(-1, -2) - mean) * probs * scale
    return d_scores @ key, d_scores.transpose(-1, -2) @ query, probs.transpose(-1, -2) @ grad_out


def merge(out: Tensor, lse: Tensor, more_out: Tensor, more_lse: Tensor) -> Tensor:
    """Adds another part to `out` [..., q, dim] in place; returns the log-sum-exp of both. lse must be finite."""
    out.lerp_(more_out, torch.sigmoid(more_lse - lse)[..., None])
    return torch.logaddexp(lse, more_lse)


def _has_operations(query: Tensor, key: Tensor, value: Tensor) -> bool:
    # Other strides of the last dimension are read wrongly without complaint (PyTorch 2.13).
    inner = query.stride(-1) == key.stride(-1) == value.stride(-1) == 1
    return query.device.type == "cpu" and inner and key.shape[-1] == value.shape[-1]


def _scores(query: Tensor, key: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    scores = query @ key.transpose(-1, -2) * scale
    return scores if bias is None else scores + bias


def _probs(scores: Tensor, lse: Tensor) -> Tensor:
    return (scores - torch.where(lse == -torch.inf, 0, lse)[..., None]).exp()
