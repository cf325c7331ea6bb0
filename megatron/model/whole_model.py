"""All layers of the model in one module that returns the loss: what DeepSpeed's engine without pipeline trains."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from deepspeed.accelerator import get_accelerator
from deepspeed.utils import set_z3_leaf_module
from torch import Tensor, nn

from megatron.model.attention_counter import AttentionCounter
from megatron.model.config import ModelConfig, check_layout
from megatron.model.embedding import FinalNorm, Head, PositionEmbedding, WordEmbedding, tied_head
from megatron.model.loss import weighted_loss
from megatron.model.micro_batch import micro_batch
from megatron.model.segments import Execution, Layer, segments
from megatron.model.transformer_layer import TransformerLayer
from megatron.mpu.parallel_state import TensorParallel
from sepllm.attention.context.exchange import ContextGroup

Built = TypeVar("Built", bound=nn.Module)


class WholeModel(nn.Module):
    """The layers of `StageModule`, undivided. Parameters are found through their `.shard`, not by attribute name.

    prepare: called with each layer as soon as it is built, for ZeRO-3 to cut its weights before the next one.
    """

    def __init__(
        self,
        config: ModelConfig,
        tp: TensorParallel,
        how: Execution,
        cp: ContextGroup,
        prepare: Callable[[nn.Module], None] = lambda layer: None,
    ) -> None:
        super().__init__()
        check_layout(config, tp.size)
        self.config, self.tp, self.cp = config, tp, cp

        def prepared(layer: Built) -> Built:
            prepare(layer)
            return layer

        self.words = prepared(WordEmbedding(config, tp))
        layers: list[Layer] = [
            partial(WordEmbedding.forward, self.words),
            prepared(PositionEmbedding(config, tp)),
            *(prepared(TransformerLayer(config, layer, tp)) for layer in range(config.num_layers)),
            prepared(FinalNorm(config, tp)),
            partial(tied_head, self.words) if config.tied_embeddings else prepared(Head(config, tp)),
        ]
        self.segments = nn.ModuleList(segments(layers, config, how, own=True))
        for segment in self.segments:
            # ZeRO-3 gathers and reduces all of a leaf's weights together. A segment without modules is no leaf:
            # it uses the word embedding's table, whose first input, token ids, has no gradient to hang a hook on.
            set_z3_leaf_module(segment, any(True for _ in segment.parameters()))
        self._counter = AttentionCounter(config.num_layers, get_accelerator().current_device_name())

    def forward(self, token_ids: Tensor, targets: tuple[Tensor, Tensor]) -> Tensor:
        """The weighted loss of a micro-batch: token_ids int64 [b, s]; targets: labels int64 and weights, [b, own]."""
        batch = micro_batch(self.config, token_ids, range(self.config.num_layers), cp=self.cp)
        if self.training:
            self._counter.count(batch)
        hidden = token_ids
        for segment in self.segments:
            hidden = segment(hidden, batch=batch)
        return weighted_loss(hidden, targets, self.tp, self.config.z_loss)

    def pop_attention_counts(self) -> Tensor:
        """float64 [num_layers, 4] since the last call (see AttentionCounter)."""
        return self._counter.pop()
