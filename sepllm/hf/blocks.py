"""Layers of the models with separator attention: norms, MLP, attention, and the residual around them."""

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer

from sepllm.attention.positions import apply_rotary
from sepllm.hf.configuration_sepllm import SepLLMConfig
from sepllm.hf.families import Family
from sepllm.hf.sight import Sight

Rotation = tuple[Tensor, Tensor] | None


class Norm(nn.Module):
    """layernorm, rmsnorm or scalenorm over the last dimension."""

    def __init__(self, config: SepLLMConfig, size: int) -> None:
        super().__init__()
        self.kind, self.epsilon = config.norm, config.layer_norm_eps
        shape = 1 if self.kind == "scalenorm" else size
        self.weight = nn.Parameter(torch.ones(shape))
        self.bias = nn.Parameter(torch.zeros(shape)) if self.kind == "layernorm" and config.norm_bias else None

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "layernorm":
            return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.epsilon)
        if self.kind == "rmsnorm":
            return F.rms_norm(x, x.shape[-1:], self.weight, self.epsilon)
        return x / x.norm(dim=-1, keepdim=True).clamp(min=self.epsilon) * self.weight


class MLP(nn.Module):
    """Two matrices with biases, or three without (gated); named as in the family."""

    def __init__(self, config: SepLLMConfig, family: Family) -> None:
        super().__init__()
        hidden, inner = config.hidden_size, config.intermediate_size
        bias = config.mlp_bias and not config.gated_mlp
        self.names = family.gated_mlp if config.gated_mlp else family.plain_mlp
        sizes = [(hidden, inner), (inner, hidden), (hidden, inner)]
        for name, (source, target) in zip(self.names, sizes, strict=False):
            self.add_module(name, nn.Linear(source, target, bias=bias))
        self.activation = _activation(config.hidden_act)

    def forward(self, hidden: Tensor) -> Tensor:
        first, second, *third = (getattr(self, name) for name in self.names)
        inner = self.activation(first(hidden))
        for gated in third:
            inner = inner * gated(hidden)
        return cast(Tensor, second(inner))


class Attention(nn.Module):
    """Projections, rotary, and the attention that the sight of the pass allows."""

    def __init__(self, config: SepLLMConfig, family: Family, layer: int) -> None:
        super().__init__()
        hidden, size = config.hidden_size, config.head_dim
        self.layer, self.family, self.head_dim = layer, family, size
        self.heads, self.groups = config.num_attention_heads, config.num_key_value_heads
        self.dropout, self.scale = config.attention_dropout, config.attention_scale
        rows = [self.heads * size, self.groups * size, self.groups * size]
        rows = [sum(rows)] if len(family.projections) == 1 else rows
        for name, count in zip(family.projections, rows, strict=True):
            self.add_module(name, nn.Linear(hidden, count, bias=config.attention_bias))
        self.add_module(family.out, nn.Linear(self.heads * size, hidden, bias=config.attention_out_bias))
        if config.qk_norm:
            self.add_module(family.query_norm, Norm(config, size))
            self.add_module(family.key_norm, Norm(config, size))
        self.qk_norm = config.qk_norm

    def forward(self, hidden: Tensor, sight: Sight, rotation: Rotation, cache: Cache | None) -> Tensor:
        """hidden [batch, query, hidden_size] -> the same shape."""
        q, k, v = self._project(hidden)
        if self.qk_norm:
            q, k = getattr(self, self.family.query_norm)(q), getattr(self, self.family.key_norm)(k)
        if rotation is not None:
            q, k = apply_rotary(q, *rotation), apply_rotary(k, *rotation)
        if cache is not None:
            k, v = cache.update(k, v, self.layer)
        mixed = sight.attend(self.layer, q, k, v, self.scale, self.dropout if self.training else 0.0)
        joined = mixed.transpose(1, 2).reshape(*hidden.shape[:2], self.heads * self.head_dim)
        return cast(Tensor, getattr(self, self.family.out)(joined))

    def _project(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """-> query [batch, heads, query, head_dim], key and value [batch, groups, query, head_dim]."""
        parts = [getattr(self, name)(hidden) for name in self.family.projections]
        if len(parts) == 1:
            fused = parts[0].unflatten(-1, (self.groups, -1, self.head_dim))  # [b, s, groups, shared + 2, d]
            shared = self.heads // self.groups
            parts = [part.flatten(2, 3) for part in fused.split([shared, 1, 1], dim=3)]
        else:
            parts = [part.unflatten(-1, (-1, self.head_dim)) for part in parts]
        query, key, value = (part.transpose(1, 2) for part in parts)
        return query, key, value


class Layer(GradientCheckpointingLayer):
    """Attention and MLP around the residual: side by side (GPT-J, Pythia), or one after the other."""

    def __init__(self, config: SepLLMConfig, family: Family, layer: int) -> None:
        super().__init__()
        self.family = family
        self.parallel, self.dropout = config.use_parallel_residual, config.hidden_dropout
        self.mlp_norm = family.input_norm if config.shared_residual_norm else family.mlp_norm
        for name in dict.fromkeys((family.input_norm, self.mlp_norm)):
            self.add_module(name, Norm(config, config.hidden_size))
        self.add_module(family.attention, Attention(config, family, layer))
        self.mlp = MLP(config, family)

    def forward(self, hidden: Tensor, sight: Sight, rotation: Rotation, cache: Cache | None) -> Tensor:
        normed = getattr(self, self.family.input_norm)(hidden)
        attended = self._drop(getattr(self, self.family.attention)(normed, sight, rotation, cache))
        source = hidden if self.parallel else hidden + attended
        changed = self._drop(self.mlp(getattr(self, self.mlp_norm)(source)))
        return hidden + attended + changed

    def _drop(self, hidden: Tensor) -> Tensor:
        return F.dropout(hidden, self.dropout, self.training)


def _activation(name: str) -> Callable[[Tensor], Tensor]:
    """transformers' function of that name; softsign, which it lacks, besides."""
    if name == "softsign":
        return F.softsign
    found: Any = ACT2FN[name]
    return cast(Callable[[Tensor], Tensor], found)
