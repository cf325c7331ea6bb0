"""The kernels as one differentiable function of torch. Importing this file needs the package triton."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sepllm.attention.plan import Plan
from sepllm.attention.triton.backward_keys import backward_keys_kernel
from sepllm.attention.triton.backward_query import backward_query_kernel
from sepllm.attention.triton.forward import forward_kernel
from sepllm.attention.triton.tables import Tables, tables_of
from sepllm.attention.triton.tiles import Tile, block_dim, tile_for

_LOG2_E = math.log2(math.e)


class TritonAttention(torch.autograd.Function):
    """apply(query, key, value, plan, scale, alibi_slopes, positions), shapes as in the interface."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        plan: Plan,
        scale: float,
        slopes: Tensor | None,
        positions: Tensor | None,
    ) -> Tensor:
        query, key, value = (_columns_together(tensor) for tensor in (query, key, value))
        call = _Call(query, key, plan, scale, slopes, positions)
        out = _empty_heads_inside(query)
        lse = query.new_empty(query.shape[:3], dtype=torch.float32)
        tile = call.tile("forward")
        forward_kernel[call.query_grid(tile)](
            *(query, key, value, out, lse, call.slopes, call.places),
            *(call.tables.before, call.tables.packed),
            *(call.tables.start, call.tables.near_end, call.tables.far_end),
            *_strides(query, key, value, out),
            *(call.places_stride, scale * _LOG2_E),
            *(call.heads, call.group, plan.seq, call.queries, plan.window),
            **call.constants(tile),
        )
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.call = call
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, lse = ctx.saved_tensors
        call: _Call = ctx.call
        grad_out = _columns_together(grad_out)
        grad_query, grad_key, grad_value = (_empty_heads_inside(tensor) for tensor in (query, key, value))
        delta = torch.empty_like(lse)
        tile = call.tile("backward_query")
        backward_query_kernel[call.query_grid(tile)](
            *(query, key, value, out, lse, grad_out, grad_query, delta, call.slopes, call.places),
            *(call.tables.before, call.tables.packed),
            *(call.tables.start, call.tables.near_end, call.tables.far_end),
            *_strides(query, key, value, out, grad_out, grad_query),
            *(call.places_stride, call.scale * _LOG2_E, call.scale),
            *(call.heads, call.group, call.plan.seq, call.queries, call.plan.window),
            **call.constants(tile),
        )
        for name in ("backward_near",) if call.plan.is_dense else ("backward_near", "backward_far"):
            tile = call.tile(name)
            backward_keys_kernel[call.key_grid(tile)](
                *(query, key, value, lse, delta, grad_out, grad_key, grad_value, call.slopes, call.places),
                *(call.tables.packed, call.tables.near_end, call.tables.far_end),
                *_strides(query, key, value, grad_out, grad_key, grad_value),
                *(call.places_stride, call.scale * _LOG2_E, call.scale),
                *(call.heads // call.group, call.group, call.plan.seq, call.queries, call.plan.window),
                FAR=name == "backward_far",
                **call.constants(tile),
            )
        return grad_query, grad_key, grad_value, None, None, None, None


@dataclass(init=False)
class _Call:
    """What the launches of one call share."""

    plan: Plan
    tables: Tables
    scale: float
    slopes: Tensor
    places: Tensor
    places_stride: int

    def __init__(
        self,
        query: Tensor,
        key: Tensor,
        plan: Plan,
        scale: float,
        slopes: Tensor | None,
        positions: Tensor | None,
    ) -> None:
        self.plan, self.tables, self.scale = plan, tables_of(plan), scale
        self.batch, self.heads, self.queries, self.head_dim = query.shape
        self.group = self.heads // key.shape[1]
        self.bytes = query.element_size()
        self.alibi = slopes is not None
        self.slopes = self.places = self.tables.packed  # stand-ins, never read
        self.places_stride = 0
        if slopes is not None:
            if positions is None:
                positions = torch.arange(plan.seq, device=query.device)
            self.slopes = slopes.float() * _LOG2_E
            self.places = positions.float().contiguous()
            self.places_stride = plan.seq if positions.dim() == 2 else 0

    def tile(self, kernel: str) -> Tile:
        return tile_for(kernel, self.head_dim, self.bytes)

    def query_grid(self, tile: Tile) -> tuple[int]:
        return (-(-self.queries // tile.queries) * self.batch * self.heads,)

    def key_grid(self, tile: Tile) -> tuple[int]:
        # The number of marked keys is known on the device alone: as many tiles as there could be.
        return (-(-self.plan.seq // tile.keys) * self.batch * self.heads // self.group,)

    def constants(self, tile: Tile) -> dict[str, Any]:
        return {
            "DIM": self.head_dim,
            "BLOCK_D": block_dim(self.head_dim),
            "BLOCK_Q": tile.queries,
            "BLOCK_K": tile.keys,
            "HAS_ENDS": self.tables.has_ends,
            "ALIBI": self.alibi,
            "PRECISION": "ieee",  # of float32 products; tf32 would lose ten bits
            "num_warps": tile.warps,
            "num_stages": tile.stages,
            "enable_fp_fusion": True,  # no longer the default from Triton 3.10 on
        }


def _columns_together(tensor: Tensor) -> Tensor:
    """The kernels want the numbers of a head side by side; batch, heads and sequence may lie anyhow."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _strides(*tensors: Tensor) -> list[int]:
    """Of batch, heads and sequence, tensor after tensor."""
    return [stride for tensor in tensors for stride in tensor.stride()[:3]]


def _empty_heads_inside(like: Tensor) -> Tensor:
    """[batch, heads, seq, dim] laid out as [batch, seq, heads, dim]: what the layers around it read."""
    batch, heads, seq, dim = like.shape
    return like.new_empty(batch, seq, heads, dim).transpose(1, 2)
