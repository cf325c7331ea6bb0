"""Separator attention over a text that is cut over the ranks of a group; exact, forward and backward."""

from typing import Any

import torch
from torch import Tensor

from sepllm.attention.context.exchange import ContextGroup, exchange
from sepllm.attention.context.plan import ContextPlan
from sepllm.attention.interface import separator_attention
from sepllm.errors import ConfigError, ShapeError, UnsupportedError


def context_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    plan: ContextPlan,
    group: ContextGroup,
    *,
    alibi_slopes: Tensor | None = None,
    positions: Tensor | None = None,
    path: str = "auto",
    softmax: str = "softmax",
    **settings: Any,
) -> Tensor:
    """What `separator_attention` over the whole text gives, for the positions that this rank holds.

    q: [batch, heads, length, head_dim], k, v: [batch, kv_heads, length, head_dim], the rank's own positions in the
        order of `plan.split`, keys already rotated by their place in the text -> [batch, heads, length, head_dim].
    positions: of the whole text, [seq] or [batch, seq], for ALiBi; None: the place in it.
    path, softmax, settings: as in `separator_attention`. Every rank draws its own dropout.
    A collective: all ranks of the group call it, and its backward, in the same order.
    Raises ShapeError, ConfigError, UnsupportedError.
    """
    _check(q, k, v, plan, group, path, softmax)
    parts, begin = [], 0
    exchanged = exchange(k, v, plan, group)
    for stretch, (key, value) in zip(plan.stretches, exchanged, strict=True):
        end = begin + stretch.end - stretch.first
        places = None
        if alibi_slopes is not None:
            places = stretch.positions if positions is None else _gather(positions, stretch.positions)
        parts.append(
            separator_attention(
                q[:, :, begin:end],
                key,
                value,
                stretch.plan,
                alibi_slopes=alibi_slopes,
                positions=places,
                path=path,
                softmax=softmax,
                **settings,
            )
        )
        begin = end
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def _gather(positions: Tensor, places: Tensor) -> Tensor:
    return positions.expand(places.shape[0], -1).gather(1, places)


def _check(q: Tensor, k: Tensor, v: Tensor, plan: ContextPlan, group: ContextGroup, path: str, softmax: str) -> None:
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if tensor.dim() != 4 or (tensor.shape[0], tensor.shape[2]) != (plan.whole.batch, plan.length):
            raise ShapeError(
                f"{name} is {list(tensor.shape)}; rank {plan.rank} of {plan.split.ranks} holds "
                f"[batch {plan.whole.batch}, heads, {plan.length}, head_dim] of this text."
            )
    if (group.rank, group.size) != (plan.rank, plan.split.ranks):
        raise ConfigError(
            f"The plan is for rank {plan.rank} of {plan.split.ranks}, the group says {group.rank} of {group.size}."
        )
    if path == "flex":
        raise UnsupportedError("path 'flex' takes whole texts, not a rank's part of one. Use path='auto'.")
    if softmax != "softmax" and not plan.sees_all:
        raise ConfigError(f"softmax={softmax!r} looks at hidden scores too: build the plan with sees_all=True.")
