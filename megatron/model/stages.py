"""The model as DeepSpeed's PipelineModule: the same layers, dealt to stages.

Between stages travel hidden states [batch, own, hidden_size] and token ids int64 [batch, seq]; every stage
makes its own attention plans from the ids. own is seq, or a part of it where a context group shares the text.
"""

import contextlib
import io
from functools import partial
from typing import Any

import torch
from deepspeed.accelerator import get_accelerator
from deepspeed.runtime.pipe.module import LayerSpec, PipelineModule, TiedLayerSpec
from torch import Tensor

from megatron.model.attention_counter import AttentionCounter
from megatron.model.config import ModelConfig, check_layout
from megatron.model.embedding import FinalNorm, Head, PositionEmbedding, WordEmbedding, tied_head
from megatron.model.loss import weighted_loss
from megatron.model.micro_batch import MicroBatch, micro_batch
from megatron.model.segments import Execution, segments
from megatron.model.transformer_layer import TransformerLayer
from megatron.mpu.parallel_state import ParallelState, TensorParallel


def pipeline_module(
    config: ModelConfig,
    parallel: ParallelState,
    *,
    how: Execution | None = None,
    partition_method: str = "type:transformer|mlp",
) -> "StageModule":
    """This rank's stage, ready for deepspeed.initialize.

    parallel: from initialize_parallel. how: recomputation, compilation.
    partition_method: "type:REGEX" on layer class names, "parameters" or "uniform".
    Engine batches are (tokens int64 [b, s], (labels int64 [b, s], weights [b, s])): the loss is the weighted sum.
    """
    check_layout(config, parallel.tp.size)
    # It prints its seeds and its partition; the launcher's own report says the same in our words.
    with contextlib.redirect_stdout(io.StringIO()):
        return StageModule(config, parallel, how or Execution(), partition_method)


class StageModule(PipelineModule):
    """The layers of one pipeline stage. Parameters are found through their `.shard`, not by attribute name."""

    def __init__(self, config: ModelConfig, parallel: ParallelState, how: Execution, partition_method: str) -> None:
        self.config = config
        self.cp = parallel.cp
        super().__init__(
            layers=_layer_specs(config, parallel.tp),
            topology=parallel.topology,
            loss_fn=partial(weighted_loss, tp=parallel.tp, z_loss=config.z_loss, overwrite_logits=True),
            partition_method=partition_method,
        )
        numbers = (f.attention.layer for f in self.forward_funcs if isinstance(f, TransformerLayer))
        self.layer_numbers = tuple(numbers)
        self._segments = tuple(segments(self.forward_funcs, config, how))
        self._counter = AttentionCounter(config.num_layers, get_accelerator().device_name(self.local_rank))

    def forward(self, forward_input: Tensor | tuple[Tensor, Tensor]) -> Tensor | tuple[Tensor, Tensor]:
        """First stage: token ids. Others: (hidden, token ids). The last returns logits [b, own, vocab / tp]."""
        hidden, token_ids = (forward_input,) * 2 if torch.is_tensor(forward_input) else forward_input
        batch = micro_batch(self.config, token_ids, self.layer_numbers, cp=self.cp)
        if self.training:
            self._counter.count(batch)
        hidden = self.run(hidden, batch)
        return hidden if self.stage_id == self.num_stages - 1 else (hidden, token_ids)

    def run(self, hidden: Tensor, batch: MicroBatch) -> Tensor:
        """This stage's layers on a prepared micro-batch: hidden (token ids on the first stage) -> hidden or logits."""
        for segment in self._segments:
            hidden = segment(hidden, batch=batch)
        return hidden

    def pop_attention_counts(self) -> Tensor:
        """float64 [num_layers, 4] since the last call (see AttentionCounter); 0 for other stages' layers."""
        return self._counter.pop()

    def _count_layer_params(self) -> list[int]:
        # For partition_method "parameters". The stock method builds every layer for real to count it.
        with torch.device("meta"):
            return super()._count_layer_params()


def _layer_specs(config: ModelConfig, tp: TensorParallel) -> list[Any]:
    specs: list[Any] = [LayerSpec(PositionEmbedding, config, tp)]
    specs += [LayerSpec(TransformerLayer, config, layer, tp) for layer in range(config.num_layers)]
    specs += [LayerSpec(FinalNorm, config, tp)]
    if config.tied_embeddings:
        words = TiedLayerSpec("word_embeddings", WordEmbedding, config, tp)
        head = TiedLayerSpec("word_embeddings", WordEmbedding, config, tp, forward_fn=tied_head)
        return [words, *specs, head]
    return [LayerSpec(WordEmbedding, config, tp), *specs, LayerSpec(Head, config, tp)]
