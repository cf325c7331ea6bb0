"""Attention of a block of queries of which each sees its own cache: one softmax over groups of keys.

Under the mask rule with positions counted in the cache, a key stands at another place for every query, but in three
groups the distances are simple: window keys stand where they stand in the text, initial keys at the start,
and separators beyond the window by their number. So queries are turned three ways and each key once per group.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sepllm.cache.policy import INITIAL, ORDINARY
from sepllm.cache.position_shift import rotate
from sepllm.errors import UnsupportedError

NAME = "sepllm_stream"


@dataclass(frozen=True)
class Group:
    """keys: int64 [k], columns of the cache. visible: bool [q, k], True = may look.

    query_angle [q] and key_angle [k]: positions whose difference is the distance of a pair.
    """

    keys: Tensor
    visible: Tensor
    query_angle: Tensor
    key_angle: Tensor


@dataclass
class Block:
    """What the layers of one forward need. calls: layers that have asked.

    slopes: float [heads], ALiBi's, by which a score falls with the distance of a pair; None: no ALiBi.
    """

    groups: list[Group]
    frequencies: Tensor | None  # None: positions are not in the keys
    slopes: Tensor | None = None
    calls: int = 0

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """query [1, heads, q, d], key and value [1, kv_heads, k, d], unrotated -> [1, heads, q, d]."""
        self.calls += 1
        batch, heads, length, width = query.shape
        kv_heads = key.shape[1]
        fine = torch.promote_types(query.dtype, torch.float32)
        scores = []
        for group in self.groups:
            turned = self._turn(query, group.query_angle).view(batch, kv_heads, heads // kv_heads, length, width)
            keys = self._turn(key[:, :, group.keys], group.key_angle)
            score = (turned @ keys[:, :, None].transpose(-1, -2)).to(fine) * scale
            if self.slopes is not None:
                distance = group.query_angle[:, None] - group.key_angle
                score = score - self.slopes.to(fine).view(kv_heads, -1, 1, 1) * distance
            scores.append(score.masked_fill(~group.visible, -math.inf))
        weights = torch.cat(scores, dim=-1).softmax(dim=-1).to(value.dtype)
        values = torch.cat([value[:, :, group.keys] for group in self.groups], dim=2)
        return (weights @ values[:, :, None]).view(batch, heads, length, width)

    def _turn(self, states: Tensor, angle: Tensor) -> Tensor:
        return states if self.frequencies is None else rotate(states, angle, self.frequencies)


def groups_by_place(
    query: Tensor, position: Tensor, rank: Tensor, visible: Tensor, window: int, limit: int | None
) -> list[Group]:
    """The three groups under positions counted in the cache.

    query: int64 [q], positions in the text; position, rank: int64 [k], as in the cache policy; visible: bool [q, k].
    """
    own_place = visible.sum(dim=1) - 1
    near = query[:, None] - position < window
    lasting = rank > ORDINARY
    separator = lasting & (rank != INITIAL)
    beyond = separator & (position <= query[:, None] - window)
    seen = torch.where(beyond, rank, ORDINARY).amax(dim=1) + 1  # separators beyond the window so far
    dropped = torch.zeros_like(seen) if limit is None else (seen - limit).clamp(min=0)
    initial_tokens = ((rank == INITIAL) & (position <= query[:, None])).sum(dim=1)
    first = int(query[0])
    parts = [
        (position > first - window, visible & near, query, position),
        ((rank == INITIAL), visible & ~near, own_place, position),
        (
            separator & (position <= int(query[-1]) - window),
            visible & ~near,
            own_place - initial_tokens + dropped,
            rank,
        ),
    ]
    groups = []
    for columns, seen_by, query_angle, key_angle in parts:
        index = columns.nonzero()[:, 0]
        if bool(seen_by[:, index].any()):
            groups.append(Group(index, seen_by[:, index], query_angle, key_angle[index]))
    return groups


_BLOCK: ContextVar[Block | None] = ContextVar("the block that is being read", default=None)


def stream_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **others: Any,
) -> tuple[Tensor, None]:
    """The attention function of transformers' interface: [1, q, heads, d], no weights."""
    for name, reason in (
        ("sliding_window", "a sliding window of its own"),
        ("softcap", "capped scores"),
        ("s_aux", "sinks"),
    ):
        if others.get(name) is not None:
            raise UnsupportedError(
                f"{type(module).__name__} has {reason} ({name}), which streaming in blocks does not compute. "
                "Use block=1, or a model without."
            )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return block_in_reading().attend(query, key, value, scale).transpose(1, 2).contiguous(), None


def block_in_reading() -> Block:
    """The block that the forward around belongs to."""
    block = _BLOCK.get()
    if block is None:
        raise UnsupportedError(
            f"Attention {NAME!r} belongs to sepllm's streaming; choose sdpa or eager for this model."
        )
    return block


@contextmanager
def attention_in_blocks(model: Any) -> Iterator[None]:
    """Inside, the model computes its attention with the block given to `reading`."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, stream_attention)
    before = model.config._attn_implementation
    try:
        model.set_attn_implementation(NAME)
        yield
    finally:
        model.set_attn_implementation(before)


@contextmanager
def reading(block: Block, model: Any) -> Iterator[None]:
    """Give `block` to the layers of the forward inside; UnsupportedError when they did not all ask for it."""
    token = _BLOCK.set(block)
    try:
        yield
    finally:
        _BLOCK.reset(token)
    layers = model.config.get_text_config().num_hidden_layers
    if block.calls != layers:
        raise UnsupportedError(
            f"{type(model).__name__} does not use transformers' attention interface in all of its {layers} layers "
            f"({block.calls} asked). Use block=1, or schedule='lazy'."
        )
