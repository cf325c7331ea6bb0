"""The door of the triton path: says why it cannot run here, or runs it. Triton is imported on use alone."""

import importlib.util
import os

import torch
from torch import Tensor

from sepllm.attention.plan import Plan
from sepllm.errors import UnsupportedError

_MOST_HEAD_DIM = 128
_TYPES = (torch.float32, torch.bfloat16, torch.float16)


def triton_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    plan: Plan,
    scale: float,
    alibi_slopes: Tensor | None = None,
    positions: Tensor | None = None,
) -> Tensor:
    """query [batch, heads, q, dim], key and value [batch, kv_heads, seq, dim] -> [batch, heads, q, dim].

    float32, bfloat16 or float16, sums in float32. alibi_slopes: [heads]; positions: [seq] or [batch, seq], or
    None for the place in the row. Raises UnsupportedError.
    """
    reason = why_not(query.device, query.dtype, query.shape[-1], value.shape[-1])
    if reason is not None:
        raise UnsupportedError(f"path 'triton' {reason}")
    from sepllm.attention.triton.launch import TritonAttention

    # Triton launches on the current device, which need not be that of the tensors.
    with torch.autocast(query.device.type, enabled=False), torch.cuda.device_of(query):
        return TritonAttention.apply(query, key, value, plan, scale, alibi_slopes, positions)


def why_not(device: torch.device, dtype: torch.dtype, head_dim: int, value_dim: int) -> str | None:
    """Why the kernels cannot compute this here, as the rest of a sentence; None when they can."""
    if device.type != "cuda" and not _interpreted():
        return f"needs a CUDA device; the tensors are on {device}. Use path='packed', or path='auto'."
    if importlib.util.find_spec("triton") is None:
        return "needs the package triton: pip install triton. Or use path='auto'."
    if dtype not in _TYPES:
        return f"computes in float32, bfloat16 or float16, not {dtype}. Use path='packed' or path='reference'."
    if head_dim != value_dim:
        return f"wants values as wide as keys; they are {value_dim} and {head_dim}. Use path='packed'."
    if head_dim > _MOST_HEAD_DIM:
        return f"knows heads of up to {_MOST_HEAD_DIM} numbers, not {head_dim}. Use path='packed' or path='masked'."
    return None


def _interpreted() -> bool:
    """Triton's own interpreter runs kernels on a CPU, slowly: for tests. Set before triton is first imported."""
    return os.environ.get("TRITON_INTERPRET") == "1"
