"""The attention of one layer: projections, rotary, and separator attention in between.

The fused projection is head-major: [q, k, v] of each head, or [q ..., k, v] of each group that shares keys.
"""

from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from megatron.model.config import ModelConfig
from megatron.model.initialisation import hidden_init, output_init
from megatron.model.micro_batch import MicroBatch
from megatron.model.norms import HeadNorm
from megatron.mpu.layers import ColumnParallelLinear, RowParallelLinear
from megatron.mpu.parallel_state import TensorParallel
from megatron.mpu.random import different_per_tensor_rank
from sepllm.attention.positions import alibi_slopes, apply_rotary


class Attention(nn.Module):
    """`heads` gives this rank's part of the attended values, which `dense` brings back to the residual.

    recompute: keep only queries, keys and values for backward, not what attention makes of them.
    """

    def __init__(self, config: ModelConfig, layer: int, tp: TensorParallel) -> None:
        super().__init__()
        self.config, self.layer, self.tp = config, layer, tp
        name = f"layers.{layer}.attention"
        common: dict[str, Any] = {"tp": tp, "seed": config.seed}
        groups, head_dim = config.num_kv_heads, config.head_dim
        self.query_key_value = ColumnParallelLinear(
            f"{name}.query_key_value",
            config.hidden_size,
            (config.num_attention_heads + 2 * groups) * head_dim,
            init=hidden_init(config),
            bias=config.attention_bias,
            **common,
        )
        self.dense = RowParallelLinear(
            f"{name}.dense",
            config.num_attention_heads * head_dim,
            config.hidden_size,
            init=output_init(config),
            bias=config.attention_dense_bias,
            **common,
        )
        self.query_layernorm = self._head_norm(f"{name}.query_layernorm") if config.qk_layernorm else None
        self.key_layernorm = self._head_norm(f"{name}.key_layernorm") if config.qk_layernorm else None
        self._slopes: Tensor | None = None
        self.recompute = False

    def heads(self, hidden: Tensor, batch: MicroBatch) -> Tensor:
        """hidden [batch, new, hidden_size] -> [batch, new, heads / tp * head_dim]."""
        config = self.config
        query, key, value = self._project(hidden)
        if self.query_layernorm is not None and self.key_layernorm is not None:
            query, key = self.query_layernorm(query), self.key_layernorm(key)
        if batch.rotary is not None:
            query, key = apply_rotary(query, *batch.rotary), apply_rotary(key, *batch.rotary)
        if batch.cache is not None:
            key, value = batch.cache.append(self.layer, key, value)
        if self.recompute and torch.is_grad_enabled():
            dropout = config.attention_dropout > 0
            attended: Tensor = checkpoint(
                self._core, query, key, value, batch, use_reentrant=False, preserve_rng_state=dropout
            )
        else:
            attended = self._core(query, key, value, batch)
        return rearrange(attended, "b h s d -> b s (h d)")

    @torch.compiler.disable
    def _core(self, query: Tensor, key: Tensor, value: Tensor, batch: MicroBatch) -> Tensor:
        """The attended values [batch, heads / tp, new, head_dim]: what selective recomputation computes again."""
        config = self.config
        dropout = config.attention_dropout if self.training else 0.0
        with different_per_tensor_rank(self.tp if dropout else TensorParallel(), query.device):
            return batch.attend(
                self.layer,
                query,
                key,
                value,
                scale=config.attention_scale,
                alibi_slopes=self._alibi_slopes(query) if config.pos_emb == "alibi" else None,
                positions=batch.alibi_positions,
                path=config.attention_path,
                softmax=config.softmax,
                numerator_bias=config.softmax_numerator_bias,
                denominator_bias=config.softmax_denominator_bias,
                dropout_p=dropout,
            )

    def forward(self, hidden: Tensor, batch: MicroBatch) -> Tensor:
        """hidden [batch, new, hidden_size] -> the same shape, complete on every tensor rank."""
        return self.dense(self.heads(hidden, batch))

    def _project(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[batch, new, hidden_size] -> query [batch, heads, new, head_dim], key and value [batch, kv_heads, ...]."""
        groups = self.config.num_kv_heads // self.tp.size
        fused = rearrange(self.query_key_value(hidden), "b s (g r d) -> b s g r d", g=groups, d=self.config.head_dim)
        shared = self.config.num_attention_heads // self.config.num_kv_heads
        # One split, whose backward is one join: three slices would each fill a tensor of their own with zeros.
        query, key, value = fused.split([shared, 1, 1], dim=3)
        return tuple(rearrange(part, "b s g r d -> b (g r) s d") for part in (query, key, value))

    def _head_norm(self, name: str) -> HeadNorm:
        config = self.config
        return HeadNorm(
            name,
            config.head_dim,
            tp=self.tp,
            kind=config.norm,
            epsilon=config.norm_epsilon,
            bias=config.norm_bias,
        )

    def _alibi_slopes(self, query: Tensor) -> Tensor:
        """fp32 [heads / tp], this rank's part; not a buffer, since it must stay fp32 in a bf16 model."""
        if self._slopes is None or self._slopes.device != query.device:
            heads = self.config.num_attention_heads // self.tp.size
            slopes = alibi_slopes(self.config.num_attention_heads)
            own = slopes[self.tp.rank * heads : (self.tp.rank + 1) * heads]
            self._slopes = torch.tensor(own, dtype=torch.float32, device=query.device)
        return self._slopes
