"""The whole model in one object: for generation, export and as the oracle of the pipeline.

Parameter names are the global names of the shards.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from megatron.model.config import ModelConfig, check_layout
from megatron.model.embedding import FinalNorm, Head, PositionEmbedding, WordEmbedding, tied_head
from megatron.model.kv_cache import KVCache
from megatron.model.micro_batch import LayerInput, MicroBatch, micro_batch
from megatron.model.transformer_layer import TransformerLayer
from megatron.mpu.mappings import gather_last_dim
from megatron.mpu.parallel_state import TensorParallel
from sepllm.attention.statistics import attention_counts


class GPTModel(nn.Module):
    """All layers on this rank; with tp.size > 1 each layer is shared by the tensor ranks."""

    def __init__(self, config: ModelConfig, tp: TensorParallel | None = None) -> None:
        super().__init__()
        tp = replace(tp or TensorParallel(), sequence=False)  # tokens are decoded one by one
        check_layout(config, tp.size)
        self.config, self.tp = config, tp
        self.layer_numbers = tuple(range(config.num_layers))
        self.embedding = nn.ModuleDict(
            {
                "word_embeddings": WordEmbedding(config, tp),
                "position_embeddings": PositionEmbedding(config, tp),
            }
        )
        self.layers = nn.ModuleList(TransformerLayer(config, layer, tp) for layer in range(config.num_layers))
        self.final_norm = FinalNorm(config, tp)
        self.head = None if config.tied_embeddings else Head(config, tp)

    def forward(self, token_ids: Tensor, cache: KVCache | None = None, first_real: Tensor | None = None) -> Tensor:
        """Logits of the full vocabulary: int64 [batch, seq] -> [batch, seq, padded_vocab_size].

        cache: earlier tokens; token_ids are those that follow, and are added to it.
        first_real: int64 [batch], column of the first real token of left-padded rows.
        """
        batch = micro_batch(self.config, token_ids, self.layer_numbers, first_real=first_real, cache=cache)
        return gather_last_dim(self.run(token_ids, batch), self.tp)

    def run(self, hidden: Tensor, batch: MicroBatch) -> Tensor:
        """Logits [batch, seq, vocab / tp] of a prepared micro-batch; `hidden`, its token ids, is not read."""
        x = LayerInput(None, batch)
        for layer in (*self.embedding.values(), *self.layers, self.final_norm):
            x = layer(x)
        words = self.embedding["word_embeddings"]
        assert isinstance(words, WordEmbedding)
        x = tied_head(words, x) if self.head is None else self.head(x)
        return x.states

    def attention_counts(self, token_ids: Tensor) -> Tensor:
        """float64 [num_layers, 4]: kept pairs and causal pairs; keys that the last tokens see, and all keys."""
        batch = micro_batch(self.config, token_ids, self.layer_numbers)
        return torch.stack([attention_counts(plan) for plan in batch.plans.values()])
