"""One forward pass shared by the tensor and pipeline ranks that hold one copy of the model; alone, by one process."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Protocol

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from megatron.model.config import ModelConfig
from megatron.model.kv_cache import KVCache
from megatron.model.micro_batch import MicroBatch, micro_batch
from megatron.mpu.mappings import gather_last_dim
from megatron.mpu.parallel_state import ParallelState
from sepllm.config import SepConfig


class Layers(Protocol):
    """The layers of this rank: a GPTModel, or one stage of a pipeline."""

    config: ModelConfig
    layer_numbers: tuple[int, ...]

    def run(self, hidden: Tensor, batch: MicroBatch) -> Tensor:
        """Token ids (first stage) or hidden states -> hidden states, or logits [batch, seq, vocab / tp] (last)."""

    def parameters(self) -> Iterator[torch.nn.Parameter]: ...


class SharedForward:
    """Called by all ranks of one model copy with the same token ids; the last stage gets the logits.

    Ranks of a context group hold whole copies and each work alone here. decode_attention: what cached steps after
    the prompt keep, where that differs from the model's own rule.
    """

    def __init__(self, layers: Layers, parallel: ParallelState, decode_attention: SepConfig | None = None) -> None:
        self.layers, self.parallel = layers, parallel
        self._decode_config = layers.config
        if decode_attention is not None:
            self._decode_config = replace(layers.config, attention=decode_attention)
        parameter = next(iter(layers.parameters()))
        self._dtype, self.device = parameter.dtype, parameter.device

    @property
    def can_cache(self) -> bool:
        """Not where tensor ranks split the sequence: a single new token cannot be split."""
        return not self.parallel.tp.sequence

    @torch.no_grad()
    def logits(
        self, token_ids: Tensor, *, first_real: Tensor | None = None, cache: KVCache | None = None
    ) -> Tensor | None:
        """int64 [batch, new] -> [batch, new, padded_vocab_size] on the ranks of the last stage, None on others.

        first_real: int64 [batch], column of the first real token of left-padded rows. With a cache it is given
        with the prompt, and later calls continue the prompt.
        """
        tp, count = self.parallel.tp, token_ids.shape[1]
        if tp.sequence:
            token_ids = F.pad(token_ids, (0, -count % tp.size))  # nothing earlier sees what comes behind it
        config = self._decode_config if cache is not None and cache.length else self.layers.config
        batch = micro_batch(config, token_ids, self.layers.layer_numbers, first_real=first_real, cache=cache)
        hidden = token_ids if self.parallel.pp_rank == 0 else self._receive(token_ids)
        hidden = self.layers.run(hidden, batch)
        if self.parallel.pp_rank < self.parallel.pp_size - 1:
            dist.send(hidden.contiguous(), self._stage(1))
            return None
        return gather_last_dim(hidden, tp)[:, :count]

    def _receive(self, token_ids: Tensor) -> Tensor:
        tp, (rows, columns) = self.parallel.tp, token_ids.shape
        own = columns // tp.size if tp.sequence else columns
        hidden = torch.empty(rows, own, self.layers.config.hidden_size, dtype=self._dtype, device=self.device)
        dist.recv(hidden, self._stage(-1))
        return hidden

    def _stage(self, step: int) -> int:
        """Global rank of this rank's neighbour in the pipeline."""
        grid: Any = self.parallel.grid
        return int(grid.stage_to_global(self.parallel.pp_rank + step))
