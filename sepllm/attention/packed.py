"""The packed path: memory O(seq), time of what the rule keeps. The CPU default; runs on any device.

Marked keys are gathered once per row. Queries go in chunks: a chunk sees a prefix of the gathered keys (all
beyond its window, so they need no mask) and the keys nearby under the rule, in one softmax. The backward
pass repeats the probabilities chunk by chunk, and adds gathered gradients back by unique index, so that the
same input gives the same bits. Low precision is computed in float32.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sepllm.attention.plan import Plan
from sepllm.attention.rule import look_mask

_CHUNK = 128  # queries at a time; 64 to 256 differ by a few percent on CPUs
_REMEMBERED_KEYS = 4 * _CHUNK  # masks up to this width stay with the plan, wider ones are made when needed


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
        chunks = _chunks(plan, query.shape[2])
        for index in range(plan.batch):
            row = _Row(index, query, key, value, plan, scale, slopes, positions)
            for chunk in chunks[index]:
                probs = row.probs(chunk, row.scaled_queries(chunk), chunk.keys_of(row.key, row.far_key))
                result = torch.bmm(probs, chunk.keys_of(row.value, row.far_value))
                row.queries_of(out, chunk).copy_(row.split_groups(result))
        ctx.save_for_backward(query, key, value, out)
        ctx.setting = (plan, scale, slopes, positions, chunks)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out = ctx.saved_tensors
        plan, scale, slopes, positions, chunks = ctx.setting
        grads = tuple(_empty_heads_inside(tensor, tensor.shape[-1]) for tensor in (query, key, value))
        for index in range(plan.batch):
            row = _Row(index, query, key, value, plan, scale, slopes, positions)
            _row_backward(row, chunks[index], grad_out, out, *grads)
        return (*grads, None, None, None, None)


@dataclass(frozen=True)
class _Chunk:
    """Queries first..last (places in the row), the gathered and the nearby keys that they can see."""

    first: int
    last: int
    near_from: int
    far_from: int
    far_to: int
    far_masked: bool
    keep: Tensor | None = None

    @property
    def far(self) -> int:
        return self.far_to - self.far_from

    @property
    def ruled_from(self) -> int:
        """The first of the chunk's keys that needs a mask: gathered ones need it at a border or limit only."""
        return 0 if self.far_masked else self.far

    def places(self, plan: Plan, row: int) -> Tensor:
        """int64 [keys of this chunk]: their places in the row."""
        far = plan.packed_positions[row, self.far_from : self.far_to]
        return torch.cat([far, torch.arange(self.near_from, self.last, device=far.device)])

    def mask(self, plan: Plan, row: int) -> Tensor:
        """bool [queries, keys from ruled_from on], by the rule."""
        if self.keep is not None:
            return self.keep
        queries = torch.arange(self.first, self.last, device=plan.packed_positions.device)
        return look_mask(plan.marks.row(row), queries, self.places(plan, row)[self.ruled_from :])[0]

    def keys_of(self, near: Tensor, far: Tensor) -> Tensor:
        """[kv_heads, seq, dim] and [kv_heads, marked, dim] -> [kv_heads, keys of this chunk, dim]."""
        nearby = near[:, self.near_from : self.last]
        return torch.cat([far[:, self.far_from : self.far_to], nearby], dim=1) if self.far else nearby

    def add_to(self, near: Tensor, far: Tensor, part: Tensor) -> None:
        """The reverse of keys_of for gradients."""
        near[:, self.near_from : self.last] += part[:, self.far :]
        if self.far:
            far[:, self.far_from : self.far_to] += part[:, : self.far]


class _Row:
    """One row of the batch: its tensors in the type of the computation, its gathered keys and values."""

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
        dtype = torch.promote_types(query.dtype, torch.float32)
        self.index, self.scale, self.dtype = index, scale, dtype
        self.offset = plan.seq - query.shape[2]  # place in the row of the first query
        self.kv_heads = key.shape[1]
        self.all_queries, self.key, self.value = query, key[index].to(dtype), value[index].to(dtype)
        self.plan = plan
        self.marked_at = plan.packed_positions[index, : plan.packed_counts[index]]
        self.far_key, self.far_value = self.key[:, self.marked_at], self.value[:, self.marked_at]
        self.slopes = None if slopes is None else slopes.to(dtype)[:, None, None]
        self.positions = None
        if positions is not None:
            self.positions = (positions if positions.dim() == 1 else positions[index]).to(dtype)

    def queries_of(self, tensor: Tensor, chunk: _Chunk) -> Tensor:
        """[batch, heads, q, dim] -> view [heads, chunk, dim]."""
        return tensor[self.index, :, chunk.first - self.offset : chunk.last - self.offset]

    def join_groups(self, part: Tensor) -> Tensor:
        """[heads, chunk, dim] -> [kv_heads, group x chunk, dim], for the heads that share a key head."""
        return part.reshape(self.kv_heads, -1, part.shape[-1])

    def split_groups(self, part: Tensor) -> Tensor:
        """The reverse of join_groups."""
        return part.view(self.all_queries.shape[1], -1, part.shape[-1])

    def sums_for(self, grad: Tensor) -> Tensor:
        """Zeros to add this row's gradients up in: the row of `grad` itself where its type is fine enough."""
        row = grad[self.index]
        return row.zero_() if grad.dtype == self.dtype else torch.zeros_like(row, dtype=self.dtype)

    def scaled_queries(self, chunk: _Chunk) -> Tensor:
        return self.join_groups(self.queries_of(self.all_queries, chunk).to(self.dtype) * self.scale)

    def probs(self, chunk: _Chunk, queries: Tensor, keys: Tensor) -> Tensor:
        """Attention weights [kv_heads, group x chunk, keys of this chunk], from the chunk's scaled queries."""
        scores = torch.bmm(queries, keys.transpose(1, 2))
        per_head = self.split_groups(scores)
        if self.slopes is not None and self.positions is not None:
            keys_at = self.positions[chunk.places(self.plan, self.index)]
            per_head.addcmul_(self.slopes, keys_at - self.positions[chunk.first : chunk.last, None])
        hide = torch.where(chunk.mask(self.plan, self.index), 0.0, -torch.inf).to(self.dtype)
        per_head[:, :, chunk.ruled_from :] += hide
        return scores.softmax(dim=-1)


def _row_backward(
    row: _Row,
    chunks: list[_Chunk],
    grad_out: Tensor,
    out: Tensor,
    grad_query: Tensor,
    grad_key: Tensor,
    grad_value: Tensor,
) -> None:
    """Writes the gradients of one row into grad_query, grad_key, grad_value."""
    d_key, d_value = row.sums_for(grad_key), row.sums_for(grad_value)
    d_far_key, d_far_value = torch.zeros_like(row.far_key), torch.zeros_like(row.far_value)
    for chunk in chunks:
        queries, keys = row.scaled_queries(chunk), chunk.keys_of(row.key, row.far_key)
        probs = row.probs(chunk, queries, keys)  # [kv_heads, group x chunk, keys]
        d_out = row.join_groups(row.queries_of(grad_out, chunk).to(row.dtype))
        mean = (d_out * row.join_groups(row.queries_of(out, chunk))).sum(dim=-1, keepdim=True)
        chunk.add_to(d_value, d_far_value, torch.bmm(probs.transpose(1, 2), d_out))
        d_scores = torch.bmm(d_out, chunk.keys_of(row.value, row.far_value).transpose(1, 2))
        d_scores.sub_(mean).mul_(probs)
        chunk.add_to(d_key, d_far_key, torch.bmm(d_scores.transpose(1, 2), queries))
        d_query = torch.bmm(d_scores, keys).mul_(row.scale)
        row.queries_of(grad_query, chunk).copy_(row.split_groups(d_query))
    # Each marked position occurs once, so this is an assignment and needs no atomic addition.
    d_key[:, row.marked_at] += d_far_key
    d_value[:, row.marked_at] += d_far_value
    if grad_key.dtype != row.dtype:
        grad_key[row.index].copy_(d_key)
        grad_value[row.index].copy_(d_value)


def _chunks(plan: Plan, queries: int) -> list[list[_Chunk]]:
    """The chunks of every row, worked out once per plan. Reads a few counts: on a GPU this waits for them."""
    known = plan.scratch.get(("packed", queries))
    if known is None:
        known = plan.scratch[("packed", queries)] = _work_out_chunks(plan, queries)
    return known


def _work_out_chunks(plan: Plan, queries: int) -> list[list[_Chunk]]:
    firsts = range(plan.seq - queries, plan.seq, _CHUNK)
    first = torch.tensor(firsts, device=plan.marks.marked.device)
    last = (first + _CHUNK).clamp(max=plan.seq)
    near_from = (first - plan.window + 1).clamp(min=0).expand(plan.batch, -1)
    zero = torch.zeros_like(near_from)
    start = zero if plan.marks.start is None else plan.marks.start[:, first]
    border = zero if plan.marks.start is None else plan.marks.start[:, last - 1] - start
    near_from = torch.maximum(near_from, start)
    far_from, far_to = plan.marked_before.gather(1, start), plan.marked_before.gather(1, near_from)
    table = torch.stack([near_from, far_from, far_to, border], dim=-1).tolist()
    limited = plan.marks.limit is not None
    return [
        [
            _with_mask(
                _Chunk(begin, min(begin + _CHUNK, plan.seq), near, low, high, limited or border > 0), plan, index
            )
            for begin, (near, low, high, border) in zip(firsts, row, strict=True)
        ]
        for index, row in enumerate(table)
    ]


def _with_mask(chunk: _Chunk, plan: Plan, row: int) -> _Chunk:
    if chunk.last - chunk.near_from > _REMEMBERED_KEYS or chunk.far_masked:
        return chunk
    return replace(chunk, keep=chunk.mask(plan, row))


def _empty_heads_inside(like: Tensor, dim: int) -> Tensor:
    """[batch, heads, seq, dim] laid out as [batch, seq, heads, dim]: what the layers around it read."""
    batch, heads, seq, _ = like.shape
    return like.new_empty(batch, seq, heads, dim).transpose(1, 2)
