"""One forward pass through a model, as its attention layers see it: what each query may look at."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from sepllm.attention.interface import separator_attention
from sepllm.attention.plan import Plan
from sepllm.cache.rows import Chunk, OneToken
from sepllm.errors import ShapeError


class Step(Protocol):
    """Made by the hook on a model, handed to its layers."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float | None, dropout_p: float) -> Tensor:
        """q [batch, heads, new, dim]; k, v [batch, kv_heads, entries, dim] -> [batch, heads, new, dim]."""

    def mask(self, layer: int) -> Tensor | None:
        """bool [batch, 1, new, entries]; None: plain causal, or everything for one new token."""

    def position_ids(self) -> Tensor | None:
        """int64 [batch, new] to rotate with, or None for those of the caller."""


class CacheStep:
    """A step through a SepCache: what each layer does with the newest tokens, and whether keys move to other places."""

    def __init__(self, step_of: Callable[[int], OneToken | Chunk], moves_keys: bool) -> None:
        self.step_of, self.moves_keys = step_of, moves_keys
        self._bias: dict[int, Tensor] = {}

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float | None, dropout_p: float) -> Tensor:
        step = self.step_of(layer)
        if isinstance(step, Chunk):
            return separator_attention(q, k, v, step.plan, scale=scale, dropout_p=dropout_p)
        if k.shape[2] != step.used:
            raise ShapeError(f"Layer {layer} attends to {k.shape[2]} entries, but its cache holds {step.used}.")
        # Heads that share keys stand side by side as further queries of one head: nothing is copied.
        joined = q.reshape(q.shape[0], k.shape[1], -1, q.shape[3])
        bias = self._bias_of(step, q.dtype)
        return scaled_dot_product_attention(joined, k, v, bias, dropout_p, scale=scale).reshape(*q.shape[:3], -1)

    def mask(self, layer: int) -> Tensor | None:
        step = self.step_of(layer)
        if isinstance(step, OneToken):
            return None if step.keep is None else step.keep[:, None, None]
        return plan_mask(step.plan, step.plan.seq - (0 if step.gather is None else step.gather.shape[1]))

    def position_ids(self) -> Tensor | None:
        if not self.moves_keys:
            return None
        step = self.step_of(0)
        assert step.places is not None and step.first is not None
        if isinstance(step, OneToken):
            return torch.zeros_like(step.first)
        cached = 0 if step.gather is None else step.gather.shape[1]
        return (step.places[:, cached:] - step.first).clamp(min=0)

    def _bias_of(self, step: OneToken, dtype: torch.dtype) -> Tensor | None:
        """What is added to the scores, made once for layers of one group: [batch, 1, 1, entries]."""
        if step.keep is None:
            return None
        if id(step) not in self._bias:
            self._bias[id(step)] = torch.where(step.keep, 0.0, -torch.inf).to(dtype)[:, None, None]
        return self._bias[id(step)]


def plan_mask(plan: Plan, queries: int) -> Tensor | None:
    """bool [batch, 1, queries, seq] of the last queries; None where a causal kernel needs no mask."""
    if plan.is_plain_causal and queries in (1, plan.seq):
        return None
    return plan.mask_for(queries)[:, None]
