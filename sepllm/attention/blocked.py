"""The blocked path: the Self-Adjusting softmaxes by blocks of queries, each with the keys up to its end.

Exact, and nothing of size seq x seq is kept: only q, k, v and the output are saved, and the backward pass computes a
block's scores again. With weights w = p (s + shift) / width (self_adjusting.py), gradients g of w and c = sum of w g,
the scores get p (g (s + shift + 1) / width - c), and the extremes, on which shift and width depend, get what makes
the gradients of a row add up to zero. Low precision is computed in float32.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sepllm.attention.plan import Plan
from sepllm.attention.positions import alibi_bias
from sepllm.attention.rule import look_mask
from sepllm.attention.self_adjusting import Adjustment

_QUERIES = 128  # of one block: with some thousand keys its scores stay in a core's cache


def blocked_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    plan: Plan,
    scale: float,
    alibi_slopes: Tensor | None,
    positions: Tensor | None,
    adjustment: Adjustment,
) -> Tensor:
    """query [batch, heads, q, dim], key and value [batch, kv_heads, seq, dim] -> [batch, heads, q, dim].

    alibi_slopes: [heads]; positions: [seq] or [batch, seq], or None for the place in the row.
    """
    with torch.autocast(query.device.type, enabled=False):
        return _BlockedAttention.apply(query, key, value, plan, scale, alibi_slopes, positions, adjustment)


class _BlockedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, plan: Plan, *setting: Any) -> Tensor:
        out = _empty_heads_inside(query, value.shape[-1])
        for index in range(plan.batch):
            row = _Row(index, query, key, value, plan, *setting)
            for block in row.blocks():
                for part in block.parts():
                    part.attend(out)
        ctx.save_for_backward(query, key, value, out)
        ctx.setting = (plan, *setting)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, out = ctx.saved_tensors
        d_query, d_key, d_value = (_empty_heads_inside(tensor, tensor.shape[-1]) for tensor in inputs)
        for index in range(len(out)):
            row = _Row(index, *inputs, *ctx.setting)
            sums = torch.zeros_like(row.key), torch.zeros_like(row.value)
            with torch.autocast(out.device.type, enabled=False):
                for block in row.blocks():
                    for part in block.parts():
                        part.add_gradients(grad_out, out, d_query, *sums)
            for grad, total in zip((d_key, d_value), sums, strict=True):
                grad[index].copy_(total)
        return d_query, d_key, d_value, *(None,) * len(ctx.setting)


class _Row:
    """One row of the batch: keys and values [kv_heads, seq, dim] in the type of the computation."""

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
        adjustment: Adjustment,
    ) -> None:
        self.index, self.query, self.plan, self.scale, self.adjustment = index, query, plan, scale, adjustment
        self.dtype = torch.promote_types(query.dtype, torch.float32)
        self.key, self.value = (tensor[index].to(self.dtype).contiguous() for tensor in (key, value))
        self.slopes, self.positions = slopes, positions
        if positions is not None and positions.dim() == 2:
            self.positions = positions[index : index + 1]
        self.group = query.shape[1] // key.shape[1]

    def blocks(self) -> "Iterator[_Block]":
        plan, starts = self.plan, _starts(self.plan)[self.index]
        for first in range(plan.seq - self.query.shape[2], plan.seq, _QUERIES):
            last = min(first + _QUERIES, plan.seq)
            begin, end = (0, 0) if starts is None else (min(starts[first:last]), max(starts[first:last]))
            yield _Block(self, first, last, begin, first if begin == end else begin)


class _Block:
    """Queries first..last of a row with the keys begin..last, of which those before `edge` are past to all of them.

    past: 1 where a key from `edge` on is past, 0 elsewhere, [q, last - edge].
    hide: 0 where a key from `look_from` on is visible, -inf elsewhere, [q, last - look_from].
    """

    def __init__(self, row: _Row, first: int, last: int, begin: int, edge: int) -> None:
        self.row, self.first, self.last, self.begin = row, first, last, begin
        plan, device = row.plan, row.key.device
        queries, keys = torch.arange(first, last, device=device), torch.arange(begin, last, device=device)
        self.past_from = edge - begin
        past = look_mask(plan.causal_marks.row(row.index), queries, keys[self.past_from :])[0]
        self.past = past.to(row.dtype)
        if plan.is_dense:
            self.look_from, keep = self.past_from, past
        else:
            self.look_from, keep = 0, look_mask(plan.marks.row(row.index), queries, keys)[0]
        self.hide = torch.where(keep, 0.0, -torch.inf).to(row.dtype)

    def parts(self) -> "Iterator[_Part]":
        """A few key heads at a time: one where caches are small, all where many cores want work."""
        heads = self.row.key.shape[0]
        step = 1 if self.row.key.device.type == "cpu" else heads
        for head in range(0, heads, step):
            yield _Part(self, head, min(head + step, heads))


@dataclass(frozen=True, eq=False)
class _Weights:
    """What the softmax makes of a part's scores. All [kv_heads, group x q, keys], but width [kv_heads, group x q, 1].

    probs: p. lifted: s + shift. The weights are p (s + shift) / width.
    extremes: shares of the least and of the greatest score in the gradients of the extremes, or None.
    """

    probs: Tensor
    lifted: Tensor
    width: Tensor | float
    extremes: tuple[Tensor, Tensor] | None


class _Part:
    """Some key heads of a block; the query heads that share one stand side by side as further queries of it."""

    def __init__(self, block: _Block, head: int, last_head: int) -> None:
        self.block, self.row = block, block.row
        self.heads, self.keys = slice(head, last_head), slice(block.begin, block.last)
        self.q = self.join(self.row.query) * self.row.scale  # [kv_heads, group x q, dim]
        self.k, self.v = (tensor[self.heads, self.keys] for tensor in (self.row.key, self.row.value))

    def attend(self, out: Tensor) -> None:
        """Writes its share of out [batch, heads, q, dim]."""
        weights = self.weigh()
        self.split(torch.bmm(weights.lifted.mul_(weights.probs), self.v).div_(weights.width), out)

    def add_gradients(self, grad_out: Tensor, out: Tensor, d_query: Tensor, d_key: Tensor, d_value: Tensor) -> None:
        """Writes its share of d_query [batch, heads, q, dim], adds to d_key and d_value [kv_heads, seq, dim]."""
        weights = self.weigh(for_gradients=True)
        d_out = self.join(grad_out)
        centre = (d_out * self.join(out)).sum(dim=-1, keepdim=True)  # c
        d_out = d_out / weights.width
        weighted = weights.lifted.mul_(weights.probs)
        d_value[self.heads, self.keys].baddbmm_(weighted.transpose(1, 2), d_out)
        d_scores = torch.bmm(d_out, self.v.transpose(1, 2)).mul_(weighted.add_(weights.probs))
        d_scores.addcmul_(weights.probs, centre, value=-1)
        if weights.extremes is not None:
            least, greatest = weights.extremes
            d_greatest = centre / weights.width
            d_least = d_greatest - d_scores.sum(dim=-1, keepdim=True)
            d_scores.addcmul_(least, d_least).addcmul_(greatest, d_greatest, value=-1)
        self.split(torch.bmm(d_scores, self.k).mul_(self.row.scale), d_query)
        d_key[self.heads, self.keys].baddbmm_(d_scores.transpose(1, 2), self.q)

    def weigh(self, for_gradients: bool = False) -> _Weights:
        block, adjustment = self.block, self.row.adjustment
        scores = torch.bmm(self.q, self.k.transpose(1, 2))
        by_query = scores.unflatten(1, (self.row.group, -1))  # a view [kv_heads, group, q, keys]
        if self.row.slopes is not None:
            by_query.add_(self.distance_bias())
        by_query[..., block.past_from :].mul_(block.past)
        least, greatest = (extreme(dim=-1, keepdim=True) for extreme in (scores.amin, scores.amax))
        shift, width = adjustment.place(least.clamp_(max=0.0), greatest.clamp_(min=0.0))
        extremes = None
        if for_gradients and adjustment.by_extremes:
            extremes = self.shares(scores - least, least), self.shares(greatest - scores, greatest)
        lifted = scores + shift
        by_query[..., block.look_from :].add_(block.hide)
        return _Weights(scores.softmax(dim=-1), lifted, width, extremes)

    def shares(self, distance: Tensor, extreme: Tensor) -> Tensor:
        """One over the number of keys at the extreme where a past key is, 0 elsewhere: equal ones share evenly.

        distance: from the extreme, changed in place. Keys that are not past count as zeros, but receive nothing.
        """
        row, block = self.row, self.block
        at = distance.sign_().neg_().add_(1.0)
        outside = row.plan.seq - at.shape[-1]
        count = at.sum(dim=-1, keepdim=True) + outside * (extreme == 0)
        at.unflatten(1, (row.group, -1))[..., block.past_from :].mul_(block.past)
        return at.div_(count.clamp_(min=1.0))

    def distance_bias(self) -> Tensor:
        """ALiBi, [kv_heads, group, q, keys]."""
        row, block = self.row, self.block
        assert row.slopes is not None
        places = None if row.positions is None else row.positions[..., : block.last]
        slopes = row.slopes.unflatten(0, (-1, row.group))[self.heads]
        bias = alibi_bias(slopes.flatten(), block.last, block.last - block.first, places)[0, ..., block.begin :]
        return bias.unflatten(0, slopes.shape).to(row.dtype)

    def join(self, tensor: Tensor) -> Tensor:
        """[batch, heads, q, dim] -> [kv_heads, group x q, dim] in the type of the computation."""
        return self.share_of(tensor).to(self.row.dtype).flatten(1, 2)

    def split(self, part: Tensor, tensor: Tensor) -> None:
        """The reverse of join: writes its share of a tensor [batch, heads, q, dim]."""
        self.share_of(tensor).copy_(part.unflatten(1, (self.row.group, -1)))

    def share_of(self, tensor: Tensor) -> Tensor:
        """[batch, heads, q, dim] -> view [kv_heads, group, q, dim]."""
        offset = self.row.plan.seq - self.row.query.shape[2]
        rows = tensor[self.row.index, :, self.block.first - offset : self.block.last - offset]
        return rows.unflatten(0, (-1, self.row.group))[self.heads]


def _starts(plan: Plan) -> list[list[int] | None]:
    """For each row the first key that each query could see under full attention; None: key 0."""
    found: list[list[int] | None] | None = plan.scratch.get(("blocked",))
    if found is None:
        found = [None] * plan.batch if plan.marks.start is None else plan.marks.start.tolist()
        plan.scratch["blocked",] = found
    return found


def _empty_heads_inside(like: Tensor, dim: int) -> Tensor:
    """[batch, heads, seq, dim] laid out as [batch, seq, heads, dim]: what the layers around it read."""
    batch, heads, seq, _ = like.shape
    return like.new_empty(batch, seq, heads, dim).transpose(1, 2)
