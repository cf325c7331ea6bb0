"""The ways in and out of the hidden states: word embedding, positions, final norm, head.

The word embedding holds nothing but its table: only so may DeepSpeed tie it to the head on another stage.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from megatron.model.config import ModelConfig
from megatron.model.initialisation import input_init
from megatron.model.micro_batch import LayerInput
from megatron.model.norms import NormWeights
from megatron.mpu.layers import ColumnParallelLinear, VocabParallelEmbedding, parallel_logits
from megatron.mpu.mappings import weight_for_states
from megatron.mpu.parallel_state import TensorParallel
from megatron.mpu.random import dropout_of_states
from megatron.mpu.shard import sharded_parameter
from sepllm.attention.positions import sinusoids


class WordEmbedding(VocabParallelEmbedding):
    """Token ids -> hidden states."""

    def __init__(self, config: ModelConfig, tp: TensorParallel) -> None:
        super().__init__(
            "embedding.word_embeddings",
            config.padded_vocab_size,
            config.hidden_size,
            tp=tp,
            init=input_init(config),
            seed=config.seed,
        )
        self.cap = config.logits_soft_cap
        self.multiplier, self.logit_multiplier = config.embedding_multiplier, config.logit_multiplier

    def forward(self, x: LayerInput) -> LayerInput:
        return x.with_hidden(scaled(self.lookup(x.batch.token_ids), self.multiplier))


class PositionEmbedding(nn.Module):
    """Adds learned or sinusoidal positions, or the learned place inside a segment (BiPE); then dropout."""

    def __init__(self, config: ModelConfig, tp: TensorParallel) -> None:
        super().__init__()
        self.tp = tp
        self.dropout = config.hidden_dropout
        self.offset = config.position_offset
        self.sinusoidal = config.pos_emb == "sinusoidal"
        self.weight: nn.Parameter | None = None
        if config.has_position_table:
            shape = (config.max_position_embeddings + self.offset, config.hidden_size)
            name = "embedding.position_embeddings.weight"
            self.weight = sharded_parameter(name, shape, None, TensorParallel(), input_init(config), config.seed)

    def forward(self, x: LayerInput) -> LayerInput:
        hidden, positions = x.states, x.batch.positions
        if self.tp.sequence:
            positions = positions.chunk(self.tp.size, dim=1)[self.tp.rank]
        if self.weight is not None:
            hidden = hidden + F.embedding(positions + self.offset, weight_for_states(self.weight, self.tp))
        if self.sinusoidal:
            hidden = hidden + sinusoids(positions, hidden.shape[-1]).to(hidden.dtype)
        return x.with_hidden(dropout_of_states(hidden, self.dropout, self.training, self.tp))


class FinalNorm(NormWeights):
    """The norm in front of the head."""

    def __init__(self, config: ModelConfig, tp: TensorParallel) -> None:
        super().__init__(
            "final_norm",
            config.hidden_size,
            kind=config.norm,
            epsilon=config.norm_epsilon,
            bias=config.norm_bias,
            tp=tp,
        )

    def forward(self, x: LayerInput) -> LayerInput:
        return x.with_hidden(self.of_states(x.states))


class Head(nn.Module):
    """Hidden states -> logits [batch, seq, vocab / tp], with weights of its own."""

    def __init__(self, config: ModelConfig, tp: TensorParallel) -> None:
        super().__init__()
        self.final_linear = ColumnParallelLinear(
            "head.final_linear",
            config.hidden_size,
            config.padded_vocab_size,
            tp=tp,
            init=input_init(config),
            seed=config.seed,
            bias=False,
        )
        self.logit_multiplier, self.cap = config.logit_multiplier, config.logits_soft_cap

    def forward(self, x: LayerInput) -> LayerInput:
        return x.with_hidden(soft_cap(self.final_linear(scaled(x.states, self.logit_multiplier)), self.cap))


def tied_head(embedding: WordEmbedding, x: LayerInput) -> LayerInput:
    """Hidden states -> logits [batch, seq, vocab / tp] with the table of the word embedding."""
    hidden = scaled(x.states, embedding.logit_multiplier)
    return x.with_hidden(soft_cap(parallel_logits(hidden, embedding.weight, embedding.tp), embedding.cap))


def soft_cap(logits: Tensor, cap: float | None) -> Tensor:
    """Keep logits within +-cap, smoothly: cap * tanh(logits / cap) (Gemma 2, arXiv 2408.00118). Any shape."""
    return logits if cap is None else cap * torch.tanh(logits / cap)


def scaled(hidden: Tensor, factor: float) -> Tensor:
    """hidden * factor, untouched where the factor is 1."""
    return hidden if factor == 1.0 else hidden * factor
