"""Initial values of weights by GPT-NeoX's names. Each method fills a whole (global) weight."""

import math

import torch
from torch import Tensor, nn

from megatron.errors import SettingsError
from megatron.model.config import ModelConfig
from megatron.mpu.shard import InitMethod


def input_init(config: ModelConfig) -> InitMethod:
    """For weights that read: embeddings, query/key/value, the MLP's first matrices, the head."""
    return init_method(
        config.init_method, std=config.init_std, num_layers=config.num_layers, hidden_size=config.hidden_size
    )


def output_init(config: ModelConfig) -> InitMethod:
    """For weights that write to the residual: the last matrices of attention and MLP."""
    return init_method(
        config.output_init_method,
        std=config.init_std,
        num_layers=config.num_layers,
        hidden_size=config.hidden_size,
    )


def init_method(name: str, *, std: float, num_layers: int, hidden_size: int) -> InitMethod:
    """The method called `name`. std is for the methods whose spread is free; the others follow from sizes."""
    depth = math.sqrt(2 * num_layers)
    methods: dict[str, InitMethod] = {
        "normal": _normal(std),
        "scaled_normal": _normal(std / depth),
        "single_residual_scaled_normal": _normal(std / math.sqrt(num_layers)),
        # Nguyen & Salazar 2019, arXiv 1910.05895
        "small_init": _normal(math.sqrt(2 / (5 * hidden_size))),
        # mesh-transformer-jax, Wang & Komatsuzaki 2021
        "wang_init": _normal(2 / (num_layers * math.sqrt(hidden_size))),
        "xavier_uniform": _xavier_uniform,
        "xavier_normal": _xavier_normal,
        "orthogonal": _orthogonal(1.0),
        "scaled_orthogonal": _orthogonal(1 / depth),
    }
    if name not in methods:
        raise SettingsError(f"Unknown init_method {name!r}; known are {', '.join(sorted(methods))}.")
    return methods[name]


def _normal(std: float) -> InitMethod:
    def fill(tensor: Tensor, generator: torch.Generator) -> None:
        tensor.normal_(0.0, std, generator=generator)

    return fill


def _orthogonal(gain: float) -> InitMethod:
    def fill(tensor: Tensor, generator: torch.Generator) -> None:
        nn.init.orthogonal_(tensor, gain=gain, generator=generator)

    return fill


def _xavier_uniform(tensor: Tensor, generator: torch.Generator) -> None:
    nn.init.xavier_uniform_(tensor, generator=generator)


def _xavier_normal(tensor: Tensor, generator: torch.Generator) -> None:
    nn.init.xavier_normal_(tensor, generator=generator)
