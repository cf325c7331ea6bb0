"""What all layers of a stage share about one micro-batch: ids, attention plans, positions, cache.

Made once per micro-batch from the token ids, outside recomputation.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from megatron.model.config import ModelConfig
from megatron.model.kv_cache import KVCache
from sepllm.attention.bilevel import bilevel_positions
from sepllm.attention.context.attention import context_attention
from sepllm.attention.context.exchange import ContextGroup
from sepllm.attention.context.plan import ContextPlan, build_context_plan
from sepllm.attention.context.split import Split, split_text
from sepllm.attention.interface import separator_attention
from sepllm.attention.plan import Plan, build_plans
from sepllm.attention.positions import rotary_cos_sin
from sepllm.attention.rope_scaling import rotary_frequencies


@dataclass(frozen=True)
class ContextShare:
    """plans: layer number -> what this rank computes and exchanges with the others of the group."""

    group: ContextGroup
    plans: dict[int, ContextPlan]


@dataclass(frozen=True)
class MicroBatch:
    """token_ids: int64 [batch, new], what is read now. plans: layer number -> plan over cached and new tokens.

    In a context group `new` are the positions of this rank, and the plans are those of the whole text.
    positions: int64 [batch or 1, new], for tables and sinusoids (bilevel: place inside the segment).
    rotary: cos, sin, each [batch or 1, 1, new, rotary_dim], or None.
    alibi_positions: int64 [batch, cached + new, or whole text] where ALiBi counts segments, None where it counts
    tokens. context: the group and this rank's part of each plan, or None.
    """

    token_ids: Tensor
    plans: dict[int, Plan]
    positions: Tensor
    rotary: tuple[Tensor, Tensor] | None = None
    alibi_positions: Tensor | None = None
    cache: KVCache | None = None
    context: ContextShare | None = None

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, **settings: Any) -> Tensor:
        """Attention of one layer: query [batch, heads, new, head_dim] -> the same; settings of separator_attention.

        key, value: [batch, kv_heads, cached + new, head_dim]; in a context group those of this rank's positions.
        """
        if self.context is None:
            return separator_attention(query, key, value, self.plans[layer], **settings)
        return context_attention(query, key, value, self.context.plans[layer], self.context.group, **settings)


@dataclass(frozen=True)
class LayerInput:
    """What a layer takes and gives. hidden: [batch, seq, hidden_size]; None before the word embedding,
    logits [batch, seq, vocab / tp] after the head."""

    hidden: Tensor | None
    batch: MicroBatch

    def with_hidden(self, hidden: Tensor) -> "LayerInput":
        return replace(self, hidden=hidden)

    @property
    def states(self) -> Tensor:
        """The hidden states, which every layer but the embedding can count on."""
        assert self.hidden is not None
        return self.hidden


def micro_batch(
    config: ModelConfig,
    token_ids: Tensor,
    layers: Sequence[int],
    *,
    first_real: Tensor | None = None,
    cache: KVCache | None = None,
    cp: ContextGroup | None = None,
) -> MicroBatch:
    """Prepare token_ids [batch, new] for the layers with these numbers.

    cp: a context group whose ranks share the text; token_ids are all of it, without a cache.
    first_real: int64 [batch], column of the first real token of left-padded rows; with a cache it counts from
    the first call, and need not be repeated.
    """
    everything = token_ids
    if cache is not None:
        everything = cache.read(token_ids, first_real)
        first_real = cache.first_real
    new: slice | Tensor = slice(everything.shape[1] - token_ids.shape[1], None)
    documents = None if config.end_of_document is None else document_numbers(everything, config.end_of_document)
    plans = dict(zip(layers, build_plans(config.attention, everything, layers, first_real, documents), strict=True))

    context = None
    if cp is not None and cp.size > 1:
        assert cache is None, "a cache holds whole texts"
        split = split_text(token_ids.shape[1], cp.size)
        context = ContextShare(cp, _context_plans(config, plans, split, cp))
        new = split.positions(cp.rank, token_ids.device)
        token_ids = token_ids[:, new]

    columns = torch.arange(everything.shape[1], device=everything.device)[None]
    places = columns if first_real is None else (columns - first_real[:, None]).clamp(min=0)
    rotary_positions, alibi_positions = places, None
    if config.bipe_separators is not None:
        places, segments = bilevel_positions(everything, config.bipe_separators, first_real)
        rotary_positions = segments
        alibi_positions = segments if config.pos_emb == "alibi" else None
    rotary = None
    if config.pos_emb == "rotary" and config.rotary_dim:
        scaling = config.rope_scaling
        frequencies = rotary_frequencies(config.rotary_dim, config.rotary_base, scaling, token_ids.device)
        rotary = rotary_cos_sin(rotary_positions[:, new], frequencies, scaling.amplitude if scaling else 1.0)
    return MicroBatch(
        token_ids=token_ids,
        plans=plans,
        positions=places[:, new],
        rotary=rotary,
        alibi_positions=alibi_positions,
        cache=cache,
        context=context,
    )


def _context_plans(
    config: ModelConfig, plans: dict[int, Plan], split: Split, group: ContextGroup
) -> dict[int, ContextPlan]:
    """One for each distinct plan, shared by its layers."""
    sees_all = config.softmax != "softmax"
    made = {id(plan): build_context_plan(plan, split, group.rank, sees_all=sees_all) for plan in set(plans.values())}
    return {layer: made[id(plan)] for layer, plan in plans.items()}


def document_numbers(token_ids: Tensor, end_of_document: int) -> Tensor:
    """Which document of its row each token belongs to, the end token to the one it ends.

    token_ids: integers [batch, seq] -> int64 [batch, seq], from 0 on.
    """
    ends = token_ids == end_of_document
    return ends.cumsum(dim=1) - ends.long()
