"""Runs of layers that are computed as one: recomputed together in backward, gathered together under ZeRO-3."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from megatron.model.config import ModelConfig
from megatron.model.micro_batch import LayerInput, MicroBatch
from megatron.model.transformer_layer import TransformerLayer

Layer = Callable[[LayerInput], LayerInput]


@dataclass(frozen=True)
class Execution:
    """How layers are computed; results do not depend on it.

    recompute_every: transformer layers that backward recomputes as one piece, 0 none.
    recompute_attention: recompute the attention cores only (Korthikanti et al. 2022: "selective").
    compile: transformer layers go through torch.compile, all but the attention core.
    """

    recompute_every: int = 0
    recompute_attention: bool = False
    compile: bool = False


class Segment(nn.Module):
    """Layers in a row, tensors in and out. With `recompute`, backward computes their insides again.

    own: register the layers as submodules (not where another module already owns them).
    random: the layers draw random numbers, which recomputation must repeat.
    """

    def __init__(self, layers: list[Layer], *, recompute: bool, random: bool, own: bool = False) -> None:
        super().__init__()
        self.layers, self.recompute, self.random = layers, recompute, random
        if own:
            self.owned = nn.ModuleList(layer for layer in layers if isinstance(layer, nn.Module))

    def forward(self, hidden: Tensor, *, batch: MicroBatch) -> Tensor:
        """hidden [batch, seq, hidden_size]; in front of the word embedding token ids [batch, seq], which are ignored.

        The micro-batch comes by keyword: DeepSpeed looks for tensors in positional inputs only.
        """

        def run(states: Tensor) -> Tensor:
            x = LayerInput(states, batch)
            for layer in self.layers:
                x = layer(x)
            return x.states

        if not (self.recompute and torch.is_grad_enabled()):
            return run(hidden)
        result: Any = checkpoint(run, hidden, use_reentrant=False, preserve_rng_state=self.random)
        return result


def segments(layers: Iterable[Layer], config: ModelConfig, how: Execution, *, own: bool = False) -> list[Segment]:
    """The layers in runs of up to `how.recompute_every` transformer layers, set up as `how` says."""
    random = config.hidden_dropout > 0 or config.attention_dropout > 0
    runs: list[tuple[list[Layer], bool]] = []
    for layer in layers:
        recompute = how.recompute_every > 0 and isinstance(layer, TransformerLayer)
        if isinstance(layer, TransformerLayer):
            layer.attention.recompute = how.recompute_attention
            if how.compile:
                layer.compile_form()
        if runs and recompute and runs[-1][1] and len(runs[-1][0]) < how.recompute_every:
            runs[-1][0].append(layer)
        else:
            runs.append(([layer], recompute))
    return [Segment(run, recompute=recompute, random=random, own=own) for run, recompute in runs]
