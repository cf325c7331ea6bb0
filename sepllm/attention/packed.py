"""The packed path: memory O(seq), time of what the rule keeps. The CPU default; runs on any device.

Marked keys are gathered once per row. A query sees those beyond its window as a prefix of the gathered keys, and
its window in the row itself; the two parts are merged exactly by their log-sum-exp. The backward pass repeats
the parts with the merged result, and adds gathered gradients back by unique index, so that the same input gives
the same bits. Low precision is computed in float32.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sepllm.attention.blocks import SPAN, Block, blocks_of
from sepllm.attention.part import attend_part, merge, part_gradients
from sepllm.attention.plan import Plan

_BIASED_SPAN = 128  # with ALiBi every block needs a bias for all heads and all its keys


def packed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    plan: Plan,
    scale: float,
    alibi_slopes: Tensor | None = None,
    positions: Tensor | None = None,
) -> Tensor:
    """query [batch, heads, q, dim], key and value [batch, kv_heads, seq, dim] -> [batch, heads, q, dim].

    alibi_slopes: [heads]; positions: [seq] or [batch, seq], or None for the place in the row.
    """
    if alibi_slopes is not None and positions is None:
        positions = torch.arange(plan.seq, device=query.device)
    with torch.autocast(query.device.type, enabled=False):
        return _PackedAttention.apply(query, key, value, plan, scale, alibi_slopes, positions)


class _PackedAttention(torch.autograd.Function):
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
        out = _empty_heads_inside(query, value.shape[-1])
        batch, heads, queries, _ = query.shape
        kv_heads, fine = key.shape[1], torch.promote_types(query.dtype, torch.float32)
        lse = query.new_empty(batch, kv_heads, heads // kv_heads * queries, dtype=fine)
        blocks = blocks_of(plan, queries, SPAN if slopes is None else _BIASED_SPAN)
        for index in range(plan.batch):
            row = _Row(index, query, key, value, plan, scale, slopes, positions)
            for block in blocks[index]:
                row.attend(block, query, out, lse)
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.setting = (plan, scale, slopes, positions, blocks)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, lse = ctx.saved_tensors
        plan, scale, slopes, positions, blocks = ctx.setting
        d_query, d_key, d_value = (_empty_heads_inside(tensor, tensor.shape[-1]) for tensor in (query, key, value))
        for index in range(plan.batch):
            row = _Row(index, query, key, value, plan, scale, slopes, positions)
            sums = [_Sum(d_key[index], row), _Sum(d_value[index], row)]
            for block in blocks[index]:
                row.add_gradients(block, query, grad_out, out, lse, d_query, sums)
            for total in sums:
                total.finish()
        return d_query, d_key, d_value, None, None, None, None


class _Row:
    """One row of the batch: keys and values in the type of the computation, as they lie and gathered.

    The query heads that share a key head stand side by side as further queries of that head: a block's queries are
    laid out [chunks, kv_heads, group x chunk, dim]. PyTorch's operations put heads inside, so that what they return
    for it lies in memory as in the tensors around it, and is copied in one piece.
    """

    def __init__(
        self,
        index: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        plan: Plan,
        scale: float,
        slopes: Tensor | None,
        positions: Tensor | None,
    ) -> None:
        self.index, self.scale = index, scale
        self.dtype = torch.promote_types(query.dtype, torch.float32)
        self.offset = plan.seq - query.shape[2]  # place in the row of the first query
        self.kv_heads, self.group = key.shape[1], query.shape[1] // key.shape[1]
        self.key, self.value = (_dim_inside(tensor[index].to(self.dtype)) for tensor in (key, value))
        self.marked_at = plan.packed_positions[index, : plan.packed_counts[index]]
        self.far_key, self.far_value = (t[None, :, self.marked_at] for t in (self.key, self.value))
        self.slopes, self.positions = slopes, positions
        if positions is not None:
            self.positions = (positions if positions.dim() == 1 else positions[index]).to(self.dtype)

    def attend(self, block: Block, query: Tensor, out: Tensor, lse: Tensor) -> None:
        """Writes the block's share of out [batch, heads, q, dim] and of lse [batch, kv_heads, group x q]."""
        q = self.join(query, block)
        near = _stretches(self.key, block), _stretches(self.value, block)
        result, total = attend_part(q, *near, self.near_bias(block), self.scale)
        for stretch, keep in block.far_stretches():
            far = self.far_key[:, :, stretch], self.far_value[:, :, stretch]
            more, more_lse = attend_part(_one_chunk(q), *far, self.far_bias(block, stretch, keep), self.scale)
            more, more_lse = _chunked(more, block), _chunked(more_lse, block)
            if keep is not None:
                more_lse = torch.where(block.far_some().repeat(1, self.group)[:, None], more_lse, -torch.inf)
            total = merge(result, total, more, more_lse)
        self.split(result, block, out)
        self.lse_of(lse, block).copy_(total)

    def add_gradients(
        self,
        block: Block,
        query: Tensor,
        grad_out: Tensor,
        out: Tensor,
        lse: Tensor,
        grad_query: Tensor,
        sums: "list[_Sum]",
    ) -> None:
        """Writes the block's share of grad_query, adds to the sums of keys and values."""
        d_out, q, o = (self.join(tensor, block) for tensor in (grad_out, query, out))
        total = self.lse_of(lse, block).contiguous()
        near = _stretches(self.key, block), _stretches(self.value, block)
        d_query, *d_near = part_gradients(d_out, q, *near, o, total, self.near_bias(block), self.scale)
        for gradient, part in zip(sums, d_near, strict=True):
            gradient.add_near(block, part)
        d_out, q, o, total = (_one_chunk(tensor) for tensor in (d_out, q, o, total))
        for stretch, keep in block.far_stretches():
            far = self.far_key[:, :, stretch], self.far_value[:, :, stretch]
            bias = self.far_bias(block, stretch, keep)
            more, *d_far = part_gradients(d_out, q, *far, o, total, bias, self.scale)
            d_query.add_(_chunked(more, block))
            for gradient, part in zip(sums, d_far, strict=True):
                gradient.far[:, stretch].add_(part[0])
        self.split(d_query, block, grad_query)

    def join(self, tensor: Tensor, block: Block) -> Tensor:
        """[batch, heads, q, dim] -> [chunks, kv_heads, group x chunk, dim], a view where one head has one key head."""
        return _dim_inside(self.block_of(tensor, block).to(self.dtype).permute(2, 0, 1, 3, 4).flatten(2, 3))

    def split(self, part: Tensor, block: Block, tensor: Tensor) -> None:
        """The reverse of join: writes the block's share of a tensor [batch, heads, q, dim]."""
        self.block_of(tensor, block).copy_(part.unflatten(2, (self.group, -1)).permute(1, 2, 0, 3, 4))

    def block_of(self, tensor: Tensor, block: Block) -> Tensor:
        """[batch, heads, q, dim] -> view [kv_heads, group, chunks, chunk, dim]."""
        part = tensor[self.index, :, block.first - self.offset : block.last - self.offset]
        return part.unflatten(0, (self.kv_heads, self.group)).unflatten(2, (block.chunks, block.chunk))

    def lse_of(self, lse: Tensor, block: Block) -> Tensor:
        """[batch, kv_heads, group x q] -> view [chunks, kv_heads, group x chunk]."""
        begin, end = block.first - self.offset, block.last - self.offset
        part = lse[self.index, :, begin * self.group : end * self.group]
        return part.unflatten(1, (block.chunks, -1)).transpose(0, 1)

    def near_bias(self, block: Block) -> Tensor:
        """Broadcasts to [chunks, kv_heads, group x chunk, near]."""
        bias = _hide(block.near_keep(), self.dtype)[None, :, None]  # [kv_heads, chunks, group, chunk, near]
        if self.slopes is not None:
            bias = bias + self.distance_bias(block, block.near_keys())
        return bias.expand(-1, -1, self.group, -1, -1).flatten(2, 3).transpose(0, 1)

    def far_bias(self, block: Block, stretch: slice, keep: Tensor | None) -> Tensor | None:
        """Broadcasts to [1, kv_heads, chunks x group x chunk, keys]; None: nothing to add."""
        bias = None if keep is None else _hide(keep, self.dtype)[None, :, None]
        if self.slopes is not None:
            distance = self.distance_bias(block, self.marked_at[None, stretch])
            bias = distance if bias is None else bias + distance
        return None if bias is None else bias.expand(-1, -1, self.group, -1, -1).flatten(1, 3)[None]

    def distance_bias(self, block: Block, keys: Tensor) -> Tensor:
        """ALiBi. keys: places [chunks or 1, keys] -> [kv_heads, chunks, group, chunk, keys]."""
        assert self.slopes is not None and self.positions is not None
        back = self.positions[keys][:, None] - self.positions[block.queries()][:, :, None]  # [chunks, chunk, keys]
        return self.slopes.to(self.dtype).view(self.kv_heads, 1, self.group, 1, 1) * back[:, None]


class _Sum:
    """The gradient of one row's keys or values, added up part by part: in place where the type is fine enough."""

    def __init__(self, grad: Tensor, row: _Row) -> None:
        self.grad, self.marked_at = grad, row.marked_at  # grad: [kv_heads, seq, dim]
        self.near = grad if grad.dtype == row.dtype else torch.empty_like(grad, dtype=row.dtype)
        self.near[:, : row.offset] = 0
        self.far = self.near.new_zeros(len(row.marked_at), grad.shape[0], grad.shape[-1]).transpose(0, 1)

    def add_near(self, block: Block, part: Tensor) -> None:
        """part: [chunks, kv_heads, near, dim]. Blocks come in order, so that their own keys are met first here."""
        _stretches(self.near, block, block.reach).copy_(part[:, :, block.reach :])
        for begin in range(0, block.reach, block.chunk):
            end = min(begin + block.chunk, block.reach)
            _stretches(self.near, block, begin, end).add_(part[:, :, begin:end])

    def finish(self) -> None:
        # Each marked position occurs once, so this is an assignment and needs no atomic addition.
        self.near[:, self.marked_at] += self.far
        if self.near is not self.grad:
            self.grad.copy_(self.near)


def _stretches(tensor: Tensor, block: Block, begin: int = 0, end: int | None = None) -> Tensor:
    """[kv_heads, seq, dim] -> view [chunks, kv_heads, end - begin, dim]: begin..end of each chunk's nearby keys.

    Stretches of neighbouring chunks overlap, unless they are at most one chunk long.
    """
    heads, place, inner = tensor.stride()
    size = (block.chunks, tensor.shape[0], (block.near if end is None else end) - begin, tensor.shape[-1])
    offset = tensor.storage_offset() + (block.near_from + begin) * place
    return tensor.as_strided(size, (block.chunk * place, heads, place, inner), offset)


def _one_chunk(tensor: Tensor) -> Tensor:
    """[chunks, kv_heads, queries, ...] -> [1, kv_heads, chunks x queries, ...]."""
    return tensor.transpose(0, 1).flatten(1, 2)[None]


def _chunked(tensor: Tensor, block: Block) -> Tensor:
    """The reverse of _one_chunk."""
    return tensor[0].unflatten(1, (block.chunks, -1)).transpose(0, 1)


def _hide(keep: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.where(keep, 0.0, -torch.inf).to(dtype)


def _dim_inside(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _empty_heads_inside(like: Tensor, dim: int) -> Tensor:
    """[batch, heads, seq, dim] laid out as [batch, seq, heads, dim]: what the layers around it read."""
    batch, heads, seq, _ = like.shape
    return like.new_empty(batch, seq, heads, dim).transpose(1, 2)
