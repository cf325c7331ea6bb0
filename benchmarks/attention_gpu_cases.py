"""The contestants of attention_gpu.py: what each needs, prepares per text, and computes; and the exact answer."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from sepllm.attention import flex
from sepllm.attention.blocks import SPAN, blocks_of
from sepllm.attention.interface import separator_attention
from sepllm.attention.plan import Plan, build_plan
from sepllm.attention.rule import keep_mask, look_mask, mark_tokens
from sepllm.attention.triton import tables as triton_tables
from sepllm.attention.triton.path import why_not
from sepllm.config import SepConfig


@dataclass(frozen=True)
class Shape:
    """q [batch, heads, seq, head_dim]; k, v [batch, kv_heads, seq, head_dim]."""

    batch: int
    heads: int
    kv_heads: int
    seq: int
    head_dim: int
    dtype: torch.dtype
    device: str


@dataclass(frozen=True)
class Contestant:
    """sparse: keeps what the rule keeps; otherwise full causal attention.

    missing: (shape) -> why it cannot run, or None. prepare: (config, token_ids) -> what all layers share.
    attend: (q, k, v, prepared) -> output.
    """

    sparse: bool
    missing: Callable[[Shape], str | None]
    prepare: Callable[[SepConfig, Tensor], Any]
    attend: Callable[[Tensor, Tensor, Tensor, Any], Tensor]


def make_leaves(shape: Shape) -> tuple[list[Tensor], Tensor]:
    """q, k, v as models hold them (heads inside), and a gradient of the output."""
    source = torch.Generator(device=shape.device).manual_seed(shape.seq)
    made = [
        torch.randn(
            shape.batch,
            shape.seq,
            heads,
            shape.head_dim,
            generator=source,
            dtype=shape.dtype,
            device=shape.device,
        ).transpose(1, 2)
        for heads in (shape.heads, shape.kv_heads, shape.kv_heads, shape.heads)
    ]
    return [tensor.requires_grad_() for tensor in made[:3]], made[3]


def exact(
    config: SepConfig | None, token_ids: Tensor, leaves: list[Tensor], grad: Tensor, queries: Tensor
) -> list[Tensor]:
    """Output at some queries, and the gradients when only they have one: float32, from the rule itself.

    config None: full causal attention. queries: int64 [q] -> [b, h, q, dim], and gradients shaped like leaves.
    """
    seq = token_ids.shape[1]
    positions = torch.arange(seq, device=token_ids.device)
    if config is None:
        keep = (positions <= queries[:, None])[None]
    else:
        keep = look_mask(mark_tokens(config, token_ids), queries, positions)
    fine = [leaf.detach().float().requires_grad_() for leaf in leaves]
    groups = fine[0].shape[1] // fine[1].shape[1]
    k, v = (tensor.repeat_interleave(groups, dim=1) for tensor in fine[1:])
    scores = fine[0][:, :, queries] @ k.transpose(-1, -2) / math.sqrt(k.shape[-1])
    out = scores.masked_fill(~keep[:, None], -torch.inf).softmax(dim=-1) @ v
    return [out.detach(), *torch.autograd.grad(out, fine, grad[:, :, queries].float())]


def _on_cuda(shape: Shape) -> str | None:
    return None if shape.device.startswith("cuda") else "needs a CUDA device"


def _with_backend(backend: SDPBackend) -> Contestant:
    def missing(shape: Shape) -> str | None:
        if _on_cuda(shape):
            return _on_cuda(shape)
        leaves, _ = make_leaves(Shape(1, 2, 2, 256, shape.head_dim, shape.dtype, shape.device))
        try:
            attend(leaves[0], leaves[1], leaves[2], None)
        except RuntimeError as error:
            return f"PyTorch has no such kernel here ({str(error).splitlines()[0][:80]})"
        return None

    def attend(q: Tensor, k: Tensor, v: Tensor, _: Any) -> Tensor:
        chosen: AbstractContextManager[None] = sdpa_kernel(backend)
        with chosen:
            return scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])

    return Contestant(False, missing, lambda config, ids: None, attend)


@lru_cache(maxsize=1)
def _compiled() -> Callable[..., Tensor]:
    torch._dynamo.config.recompile_limit = 64  # every shape and mask is one compilation here
    compiled: Callable[..., Tensor] = torch.compile(flex_attention, dynamic=False, fullgraph=True)
    return compiled


def _flex(q: Tensor, k: Tensor, v: Tensor, mask: BlockMask) -> Tensor:
    return _compiled()(q, k, v, block_mask=mask, enable_gqa=q.shape[1] != k.shape[1])


def _causal_blocks(config: SepConfig, ids: Tensor) -> BlockMask:
    def causal(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return k <= q

    return create_block_mask(causal, None, None, ids.shape[1], ids.shape[1], device=str(ids.device), _compile=True)


def _original_blocks(config: SepConfig, ids: Tensor) -> BlockMask:
    """As the published code: the dense mask of every row, and a block mask made from it."""
    keep = keep_mask(config, ids)

    def looks(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return keep[b, q, k]

    seq = ids.shape[1]
    return create_block_mask(looks, len(ids), None, seq, seq, device=str(ids.device), _compile=True)


def _ours(path: str, missing: Callable[[Shape], str | None], tables: Callable[[Plan], object]) -> Contestant:
    def prepare(config: SepConfig, ids: Tensor) -> Plan:
        plan = build_plan(config, ids)
        tables(plan)
        return plan

    return Contestant(
        True,
        missing,
        prepare,
        lambda q, k, v, plan: separator_attention(q, k, v, plan, path=path),
    )


def _no_triton(shape: Shape) -> str | None:
    return why_not(torch.device(shape.device), shape.dtype, shape.head_dim, shape.head_dim)


def _on_cpu(shape: Shape) -> str | None:
    return "made for a CPU" if shape.device.startswith("cuda") else None


CONTESTANTS = {
    "sdpa flash": _with_backend(SDPBackend.FLASH_ATTENTION),
    "sdpa cudnn": _with_backend(SDPBackend.CUDNN_ATTENTION),
    "sdpa causal": Contestant(
        False,
        lambda shape: None,
        lambda config, ids: None,
        lambda q, k, v, _: scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1]),
    ),
    "ours triton": _ours("triton", _no_triton, triton_tables.tables_of),
    "ours flex": _ours("flex", _on_cuda, flex.tables_of),
    "ours packed": _ours("packed", _on_cpu, lambda plan: blocks_of(plan, plan.seq, SPAN)),
    "flex causal": Contestant(False, _on_cuda, _causal_blocks, _flex),
    "original's way": Contestant(True, _on_cuda, _original_blocks, _flex),
}
