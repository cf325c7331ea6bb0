"""The MLP of one layer: the plain two-matrix form, or the gated form of three."""

from typing import Any

from torch import Tensor, nn

from megatron.model.activations import activation_function
from megatron.model.config import ModelConfig
from megatron.model.initialisation import hidden_init, output_init
from megatron.mpu.layers import ColumnParallelLinear, RowParallelLinear
from megatron.mpu.parallel_state import TensorParallel


class PlainMLP(nn.Module):
    """act(x W1 + b1) W2 + b2."""

    def __init__(self, config: ModelConfig, layer: int, tp: TensorParallel) -> None:
        super().__init__()
        name, width, inner = f"layers.{layer}.mlp", config.hidden_size, config.mlp_hidden_size
        first, last = hidden_init(config), output_init(config)
        common: dict[str, Any] = {"tp": tp, "seed": config.seed, "bias": config.mlp_bias}
        self.dense_h_to_4h = ColumnParallelLinear(f"{name}.dense_h_to_4h", width, inner, init=first, **common)
        self.dense_4h_to_h = RowParallelLinear(f"{name}.dense_4h_to_h", inner, width, init=last, **common)
        self.activation = activation_function(config.activation)

    @property
    def last(self) -> RowParallelLinear:
        return self.dense_4h_to_h

    def inner(self, hidden: Tensor) -> Tensor:
        """[batch, seq, hidden_size] -> [batch, seq, inner / tp], the input of `last`."""
        return self.activation(self.dense_h_to_4h(hidden))

    def forward(self, hidden: Tensor) -> Tensor:
        return self.last(self.inner(hidden))


class GatedMLP(nn.Module):
    """(act(x W1) * x W3) W2 (Shazeer 2020, arXiv 2002.05202), without biases; LLaMA's names."""

    def __init__(self, config: ModelConfig, layer: int, tp: TensorParallel) -> None:
        super().__init__()
        name, width, inner = f"layers.{layer}.mlp", config.hidden_size, config.mlp_hidden_size
        first, last = hidden_init(config), output_init(config)
        common: dict[str, Any] = {"tp": tp, "seed": config.seed, "bias": False}
        self.w1 = ColumnParallelLinear(f"{name}.w1", width, inner, init=first, **common)
        self.w2 = RowParallelLinear(f"{name}.w2", inner, width, init=last, **common)
        self.w3 = ColumnParallelLinear(f"{name}.w3", width, inner, init=first, **common)
        self.activation = activation_function(config.activation)

    @property
    def last(self) -> RowParallelLinear:
        return self.w2

    def inner(self, hidden: Tensor) -> Tensor:
        """[batch, seq, hidden_size] -> [batch, seq, inner / tp], the input of `last`."""
        return self.activation(self.w1(hidden)) * self.w3(hidden)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.last(self.inner(hidden))


def build_mlp(config: ModelConfig, layer: int, tp: TensorParallel) -> PlainMLP | GatedMLP:
    """The form the config asks for."""
    return (GatedMLP if config.mlp_gated else PlainMLP)(config, layer, tp)
