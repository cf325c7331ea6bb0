"""One transformer layer, in the parallel (GPT-J, Pythia) or the sequential (GPT-2, LLaMA) residual form."""

import torch
from torch import Tensor, nn

from megatron.model.attention import Attention
from megatron.model.config import ModelConfig
from megatron.model.micro_batch import LayerInput, MicroBatch
from megatron.model.mlp import build_mlp
from megatron.model.norms import Norm
from megatron.mpu.layers import sum_of_row_parallel
from megatron.mpu.parallel_state import TensorParallel
from megatron.mpu.random import dropout_of_states


class TransformerLayer(nn.Module):
    """Norms, attention and MLP of layer number `layer`."""

    def __init__(self, config: ModelConfig, layer: int, tp: TensorParallel) -> None:
        super().__init__()
        self.parallel_residual = config.parallel_residual
        self.dropout = config.hidden_dropout
        self.input_layernorm = _norm(config, f"layers.{layer}.input_layernorm", tp)
        self.post_attention_layernorm = (
            None if config.shared_residual_norm else _norm(config, f"layers.{layer}.post_attention_layernorm", tp)
        )
        self.attention = Attention(config, layer, tp)
        self.mlp = build_mlp(config, layer, tp)

        self._form = self._parallel if self.parallel_residual else self._sequential

    def compile_form(self) -> None:
        """From now on the layer runs through torch.compile; layers of one shape share the compiled code."""
        self._form = torch.compile(self._form, dynamic=False)

    def forward(self, x: LayerInput) -> LayerInput:
        return x.with_hidden(self._form(x.states, x.batch))

    def _parallel(self, hidden: Tensor, batch: MicroBatch) -> Tensor:
        for_attention = self.input_layernorm(hidden)
        for_mlp = for_attention
        if self.post_attention_layernorm is not None:
            for_mlp = self.post_attention_layernorm(hidden)
        heads = self.attention.heads(for_attention, batch)
        inner = self.mlp.inner(for_mlp)
        if self.dropout and self.training:
            return hidden + self._drop(self.attention.dense(heads)) + self._drop(self.mlp.last(inner))
        # Without dropout in between, both branches share one sum over the tensor ranks.
        return hidden + sum_of_row_parallel((self.attention.dense, heads), (self.mlp.last, inner))

    def _sequential(self, hidden: Tensor, batch: MicroBatch) -> Tensor:
        assert self.post_attention_layernorm is not None
        hidden = hidden + self._drop(self.attention(self.input_layernorm(hidden), batch))
        return hidden + self._drop(self.mlp(self.post_attention_layernorm(hidden)))

    def _drop(self, branch: Tensor) -> Tensor:
        return dropout_of_states(branch, self.dropout, self.training, self.attention.tp)


def _norm(config: ModelConfig, name: str, tp: TensorParallel) -> Norm:
    return Norm(name, config.hidden_size, kind=config.norm, epsilon=config.norm_epsilon, bias=config.norm_bias, tp=tp)
