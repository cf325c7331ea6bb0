"""What the queries of one pass see, and the attention over it.

With this project's package installed attention costs what the rule keeps; without, an exported folder uses PyTorch's
attention with the dense mask of the same rule.
"""

import importlib
import math
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor

from sepllm.attention.masked import masked_attention
from sepllm.attention.plan import Plan, build_plans
from sepllm.attention.positions import alibi_bias, alibi_slopes
from sepllm.attention.reference import reference_attention
from sepllm.hf.configuration_sepllm import SepLLMConfig


class Sight(Protocol):
    """Made once for a pass, handed to its layers. A SepCache makes its own."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float | None, dropout_p: float) -> Tensor:
        """q [batch, heads, query, dim]; k, v [batch, kv_heads, key, dim] -> [batch, heads, query, dim]."""


@dataclass(frozen=True)
class Text:
    """Past and present tokens. ids: int64 [batch, key], -1 for padding. real: bool [batch, key]; None: no padding."""

    ids: Tensor
    real: Tensor | None

    @property
    def first_real(self) -> Tensor | None:
        """Column of the first real token of each row, int64 [batch]; the row length where a row is all padding."""
        if self.real is None:
            return None
        first = self.real.int().argmax(dim=1)
        return torch.where(self.real.any(dim=1), first, self.real.shape[1])

    @property
    def has_gaps(self) -> bool:
        """Padding between texts of a row, as when a shorter row of a batch goes on."""
        if self.real is None:
            return False
        rises = (self.real[:, 1:] & ~self.real[:, :-1]).sum(dim=1) + self.real[:, 0].long()
        return bool((rises > 1).any())

    def documents(self, end_of_document: int | None) -> Tensor | None:
        """Which document of its row each token belongs to, the end token to the one it ends; int64 [batch, key]."""
        if end_of_document is None:
            return None
        ends = self.ids == end_of_document
        return ends.cumsum(dim=1) - ends.long()


@dataclass(frozen=True, eq=False)
class GapPlan(Plan):
    """A plan for rows with padding between texts, which no key may be."""

    real: Tensor | None = None

    @property
    def is_plain_causal(self) -> bool:
        return False

    def mask_for(self, queries: int) -> Tensor:
        return self._hide(super().mask_for(queries))

    def causal_mask_for(self, queries: int) -> Tensor:
        return self._hide(super().causal_mask_for(queries))

    def _hide(self, keep: Tensor) -> Tensor:
        """A query that is padding must see something, or its softmax is empty; nobody reads its result."""
        assert self.real is not None
        keys = torch.arange(keep.shape[2], device=keep.device)
        return (keep & self.real[:, None, :]) | (keys[-keep.shape[1] :, None] == keys)


class RuleSight:
    """The rule over all tokens of past and present. places: what ALiBi counts, int64 [batch, key]; None: tokens."""

    def __init__(self, config: SepLLMConfig, rule: Any, text: Text, places: Tensor | None) -> None:
        self.softmax, self.places = config.softmax, places
        gaps = text.has_gaps
        self.installed = None if gaps else installed("sepllm.attention.interface")
        build = build_plans if self.installed is None else installed("sepllm.attention.plan").build_plans
        layers = range(config.num_hidden_layers)
        plans = build(rule, text.ids, layers, text.first_real, text.documents(config.end_of_document))
        self.plans: list[Plan] = [_with_gaps(plan, text.real) for plan in plans] if gaps else plans
        self.slopes: Tensor | None = None
        if config.position_embedding == "alibi":
            self.slopes = torch.tensor(alibi_slopes(config.num_attention_heads), device=text.ids.device)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float | None, dropout_p: float) -> Tensor:
        plan, scale = self.plans[layer], 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale
        kind, numerator, denominator = (self.softmax[key] for key in ("kind", "numerator_bias", "denominator_bias"))
        if self.installed is not None:
            attended: Tensor = self.installed.separator_attention(
                q,
                k,
                v,
                plan,
                scale=scale,
                alibi_slopes=self.slopes,
                positions=self.places,
                softmax=kind,
                numerator_bias=numerator,
                denominator_bias=denominator,
                dropout_p=dropout_p,
            )
            return attended
        bias = None if self.slopes is None else alibi_bias(self.slopes, plan.seq, q.shape[2], self.places)
        if kind == "softmax":
            return masked_attention(q, k, v, plan, scale, bias, dropout_p)
        return reference_attention(q, k, v, plan, scale, bias, kind, numerator, denominator, dropout_p)


def _with_gaps(plan: Plan, real: Tensor | None) -> GapPlan:
    return GapPlan(plan.batch, plan.seq, plan.marks, plan.is_dense, plan.padding, real=real)


@cache
def installed(module: str) -> Any:
    """A module of this project's package, or None where an exported folder runs without it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return None
