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

_QUERIES = 128  # of one block
_SCORES = 2**17  # of one part on a CPU, unless one key head has more: they and what they become stay in the cache


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
            result = row.by_key_head(out)
            for part in row.parts():
                part.attend(result)
        ctx.save_for_backward(query, key, value, out)
        ctx.setting = (plan, *setting)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, out = ctx.saved_tensors
        d_query, d_key, d_value = (_empty_heads_inside(tensor, tensor.shape[-1]) for tensor in inputs)
        for index in range(len(out)):
            with torch.autocast(out.device.type, enabled=False):
                row = _Row(index, *inputs, *ctx.setting)
                gradients = _Gradients(row, grad_out, out, d_query)
                for part in row.parts():
                    part.add_gradients(gradients)
            d_key[index].copy_(gradients.d_key)
            d_value[index].copy_(gradients.d_value)
        return d_query, d_key, d_value, *(None,) * len(ctx.setting)


class _Row:
    """One row of the batch, in the type of the computation.

    Query heads that share a key head stand beside it: q [kv_heads, group, q, dim]; key, value [kv_heads, seq, dim].
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
        adjustment: Adjustment,
    ) -> None:
        self.index, self.plan, self.scale, self.adjustment = index, plan, scale, adjustment
        self.dtype = torch.promote_types(query.dtype, torch.float32)
        self.key, self.value = (tensor[index].to(self.dtype).contiguous() for tensor in (key, value))
        self.group = query.shape[1] // key.shape[1]
        self.q = self.by_key_head(query).to(self.dtype) * scale
        self.slopes = None if slopes is None else slopes.unflatten(0, (-1, self.group))
        self.positions = positions
        if positions is not None and positions.dim() == 2:
            self.positions = positions[index : index + 1]

    def by_key_head(self, tensor: Tensor) -> Tensor:
        """[batch, heads, q, dim] -> view of this row, [kv_heads, group, q, dim]."""
        return tensor[self.index].unflatten(0, (-1, self.group))

    def parts(self) -> "Iterator[_Part]":
        """Blocks of queries, of each some key heads at a time: few where caches are small."""
        plan, starts = self.plan, _starts(self.plan)[self.index]
        kv_heads, _, queries, _ = self.q.shape
        for first in range(plan.seq - queries, plan.seq, _QUERIES):
            last = min(first + _QUERIES, plan.seq)
            begin, end = (0, 0) if starts is None else (min(starts[first:last]), max(starts[first:last]))
            block = _Block(self, first, last, begin, first if begin == end else begin)
            together = kv_heads
            if self.key.device.type == "cpu":
                together = max(1, _SCORES // (self.group * (last - first) * (last - begin)))
            for head in range(0, kv_heads, together):
                yield _Part(block, slice(head, head + together))


class _Block:
    """Queries first..last of a row with the keys begin..last, of which those before `edge` are past to all of them.

    past: 1 where a key from `edge` on is past, 0 elsewhere, [q, last - edge].
    hide: 0 where a key from `look_from` on is visible, -inf elsewhere, [q, begin + look_from..last].
    """

    def __init__(self, row: _Row, first: int, last: int, begin: int, edge: int) -> None:
        self.row, self.first, self.last, self.begin = row, first, last, begin
        plan, device = row.plan, row.key.device
        offset = plan.seq - row.q.shape[2]
        self.queries, self.keys = slice(first - offset, last - offset), slice(begin, last)
        queries, keys = torch.arange(first, last, device=device), torch.arange(begin, last, device=device)
        self.past_from = edge - begin
        past = look_mask(plan.causal_marks.row(row.index), queries, keys[self.past_from :])[0]
        self.past = past.to(row.dtype)
        if plan.is_dense:
            self.look_from, keep = self.past_from, past
        else:
            self.look_from, keep = 0, look_mask(plan.marks.row(row.index), queries, keys)[0]
        self.hide = torch.where(keep, 0.0, -torch.inf).to(row.dtype)


class _Gradients:
    """What the backward pass of a row reads and writes.

    d_out, d_query: [kv_heads, group, q, dim]. centre: c, [kv_heads, group, q, 1].
    d_key, d_value: [kv_heads, seq, dim], sums over the parts in the type of the computation.
    """

    def __init__(self, row: _Row, grad_out: Tensor, out: Tensor, d_query: Tensor) -> None:
        self.d_out = row.by_key_head(grad_out).to(row.dtype)
        self.centre = (self.d_out * row.by_key_head(out)).sum(dim=-1, keepdim=True)
        self.d_query = row.by_key_head(d_query)
        self.d_key, self.d_value = torch.zeros_like(row.key), torch.zeros_like(row.value)


@dataclass(frozen=True, eq=False)
class _Extreme:
    """at: 1 where a past key has the extreme score, 0 elsewhere, [kv_heads, group x q, keys]. Equal ones share evenly.

    count: between how many, [kv_heads, group x q, 1]. Keys that are not past count as zeros, but receive nothing.
    """

    at: Tensor
    count: Tensor


@dataclass(frozen=True, eq=False)
class _Weights:
    """What the softmax makes of a part's scores. All [kv_heads, group x q, keys], but width [kv_heads, group x q, 1].

    probs: p. lifted: s + shift. The weights are p (s + shift) / width.
    extremes: where the least and the greatest score of each row are; None where they are not asked for.
    """

    probs: Tensor
    lifted: Tensor
    width: Tensor | float
    extremes: tuple[_Extreme, _Extreme] | None


class _Part:
    """Some key heads of a block; the query heads that share one become further queries of it."""

    def __init__(self, block: _Block, heads: slice) -> None:
        self.block, self.row, self.heads = block, block.row, heads
        self.q = self.share(self.row.q)  # [kv_heads, group x q, dim]
        self.k, self.v = (tensor[heads, block.keys] for tensor in (self.row.key, self.row.value))

    def attend(self, out: Tensor) -> None:
        """Writes its share of out [kv_heads, group, q, dim]."""
        weights = self.weigh()
        self.write(torch.bmm(weights.lifted.mul_(weights.probs), self.v).div_(weights.width), out)

    def add_gradients(self, gradients: _Gradients) -> None:
        weights = self.weigh(for_gradients=True)
        centre = self.share(gradients.centre)
        d_out = self.share(gradients.d_out) / weights.width
        weighted = weights.lifted.mul_(weights.probs)
        gradients.d_value[self.heads, self.block.keys].baddbmm_(weighted.transpose(1, 2), d_out)
        d_scores = torch.bmm(d_out, self.v.transpose(1, 2)).mul_(weighted.add_(weights.probs))
        d_scores.addcmul_(weights.probs, centre, value=-1)
        if weights.extremes is not None:
            least, greatest = weights.extremes
            d_greatest = centre / weights.width
            d_least = d_greatest - d_scores.sum(dim=-1, keepdim=True)
            d_scores.addcmul_(least.at, d_least / least.count)
            d_scores.addcmul_(greatest.at, d_greatest / greatest.count, value=-1)
        self.write(torch.bmm(d_scores, self.k).mul_(self.row.scale), gradients.d_query)
        gradients.d_key[self.heads, self.block.keys].baddbmm_(d_scores.transpose(1, 2), self.q)

    def weigh(self, for_gradients: bool = False) -> _Weights:
        block, adjustment = self.block, self.row.adjustment
        scores = torch.bmm(self.q, self.k.transpose(1, 2))
        if self.row.slopes is not None:
            self.by_query(scores).add_(self.distance_bias())
        self.by_query(scores, block.past_from).mul_(block.past)
        least, greatest = scores.amin(dim=-1, keepdim=True), scores.amax(dim=-1, keepdim=True)
        shift, width = adjustment.place(least.clamp_(max=0.0), greatest.clamp_(min=0.0))
        extremes = None
        if for_gradients and adjustment.by_extremes:
            extremes = self.extreme(least - scores, least), self.extreme(scores - greatest, greatest)
        lifted = scores + shift
        self.by_query(scores, block.look_from).add_(block.hide)
        return _Weights(scores.softmax(dim=-1), lifted, width, extremes)

    def extreme(self, short: Tensor, value: Tensor) -> _Extreme:
        """short: how much each score falls short of the extreme, 0 or negative; changed in place."""
        at = short.sign_().add_(1.0)  # comparisons, which give bool, cost several times as much
        outside = self.row.plan.seq - at.shape[-1]
        count = at.sum(dim=-1, keepdim=True).add_(value == 0, alpha=outside).clamp_(min=1.0)
        self.by_query(at, self.block.past_from).mul_(self.block.past)
        return _Extreme(at, count)

    def distance_bias(self) -> Tensor:
        """ALiBi, [kv_heads, group, q, keys]."""
        row, block = self.row, self.block
        assert row.slopes is not None
        places = None if row.positions is None else row.positions[..., : block.last]
        slopes = row.slopes[self.heads]
        bias = alibi_bias(slopes.flatten(), block.last, block.last - block.first, places)[0, ..., block.begin :]
        return bias.unflatten(0, slopes.shape).to(row.dtype)

    def by_query(self, scores: Tensor, begin: int = 0) -> Tensor:
        """[kv_heads, group x q, keys] -> view of the keys from `begin` on, [kv_heads, group, q, keys]."""
        heads, rows, keys = scores.shape
        group = self.row.group
        return scores.view(heads, group, rows // group, keys)[..., begin:]

    def share(self, tensor: Tensor) -> Tensor:
        """Its share of a tensor [kv_heads, group, q, dim] -> [kv_heads, group x q, dim]."""
        return tensor[self.heads, :, self.block.queries].flatten(1, 2)

    def write(self, part: Tensor, tensor: Tensor) -> None:
        """The reverse of share: writes into a tensor [kv_heads, group, q, dim]."""
        share = tensor[self.heads, :, self.block.queries]
        share.copy_(part.view(share.shape))


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
