"""The exchange of a context group: each rank gets the keys and values it needs, and gives their gradients back.

One collective each way, in which every pair of ranks passes exactly the rows that the plan names.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed
from torch import Tensor
from torch.autograd.function import once_differentiable

from sepllm.attention.context.plan import ContextPlan


@dataclass
class Traffic:
    """What this rank received from others, counted by the exchange itself: bytes and calls, both directions."""

    forward_bytes: int = 0
    backward_bytes: int = 0
    exchanges: int = 0


@dataclass(frozen=True)
class ContextGroup:
    """The ranks that share a text. A size of 1 never communicates, and needs no group.

    group: of torch.distributed, this process being number `rank` in it. traffic: counts what is exchanged.
    """

    rank: int = 0
    size: int = 1
    group: Any = None
    traffic: Traffic = field(default_factory=Traffic)


def exchange(key: Tensor, value: Tensor, plan: ContextPlan, group: ContextGroup) -> list[tuple[Tensor, Tensor]]:
    """The keys and values of each stretch of the plan.

    key [batch, kv_heads, length, dim], value likewise -> for each stretch [batch, kv_heads, keys, dim].
    Differentiable. A collective: all ranks of the group call it, and its backward, in the same order.
    """
    flat = _Exchange.apply(key, value, plan, group)
    return list(zip(flat[::2], flat[1::2], strict=True))


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, key: Tensor, value: Tensor, plan: ContextPlan, group: ContextGroup) -> tuple[Tensor, ...]:
        ctx.plan, ctx.group, ctx.shape, ctx.split = plan, group, key.shape, (key.shape[-1], value.shape[-1])
        own = torch.cat((key, value), dim=-1).transpose(1, 2).flatten(0, 1)  # [batch * length, kv_heads, dims]
        received = _pass_on(own[plan.sends], plan.sent, plan.received, group)
        group.traffic.forward_bytes += received.nbytes
        table = torch.cat((own, received, torch.zeros_like(own[:1])))
        parts: list[Tensor] = []
        for stretch in plan.stretches:
            parts += table[stretch.rows].transpose(1, 2).split(ctx.split, dim=-1)
        return tuple(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        plan: ContextPlan = ctx.plan
        batch, heads, length, _ = ctx.shape
        fine = torch.promote_types(grads[0].dtype, torch.float32)
        count = batch * length
        total = grads[0].new_zeros(count + sum(plan.received) + 1, heads, sum(ctx.split), dtype=fine)
        for stretch, key, value in zip(plan.stretches, grads[::2], grads[1::2], strict=True):
            part = torch.cat((key, value), dim=-1).transpose(1, 2).flatten(0, 1)
            # A key occurs once in a stretch, so that the order of addition is fixed; padding's row is dropped.
            total.index_add_(0, stretch.rows.flatten(), part.to(fine))
        returned = _pass_on(total[count:-1].to(grads[0].dtype), plan.received, plan.sent, ctx.group)
        ctx.group.traffic.backward_bytes += returned.nbytes
        own, begin = total[:count], 0
        for sent in plan.sent:
            own.index_add_(0, plan.sends[begin : begin + sent], returned[begin : begin + sent].to(fine))
            begin += sent
        own = own.to(grads[0].dtype).unflatten(0, (batch, length)).transpose(1, 2)
        return (*own.split(ctx.split, dim=-1), None, None)


def _pass_on(rows: Tensor, sent: tuple[int, ...], received: tuple[int, ...], group: ContextGroup) -> Tensor:
    """rows: [sum(sent), ...], by receiving rank -> [sum(received), ...], by sending rank."""
    group.traffic.exchanges += 1
    arrived = rows.new_empty(sum(received), *rows.shape[1:])
    torch.distributed.all_to_all_single(arrived, rows.contiguous(), list(received), list(sent), group=group.group)
    return arrived
