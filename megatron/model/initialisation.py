"""Initial values of weights by GPT-NeoX's names. Each method fills a whole (global) weight."""

import math

import torch
from torch import Tensor, nn

from megatron.errors import SettingsError
from megatron.model.config import ModelConfig
from megatron.mpu.shard import InitMethod


def input_init(config: ModelConfig) -> InitMethod:
    """For embeddings and the head."""
    return _by_name(config, config.init_method, hidden=False)


def hidden_init(config: ModelConfig) -> InitMethod:
    """For weights that read the residual inside a layer: query/key/value, the MLP's first matrices."""
    return _by_name(config, config.init_method, hidden=True)


def output_init(config: ModelConfig) -> InitMethod:
    """For weights that write to the residual: the last matrices of attention and MLP."""
    return _by_name(config, config.output_init_method, hidden=True)


def _by_name(config: ModelConfig, name: str, *, hidden: bool) -> InitMethod:
    """Under muP: the spread of the base model's weights; inside the layers it shrinks with the root of the width."""
    width, factor = config.hidden_size, 1.0
    if config.mup is not None:
        width = config.mup.base_width
        factor = config.mup.init_scale / (math.sqrt(config.mup.width) if hidden else 1.0)
    return init_method(name, std=config.init_std, num_layers=config.num_layers, hidden_size=width, factor=factor)


def init_method(name: str, *, std: float, num_layers: int, hidden_size: int, factor: float = 1.0) -> InitMethod:
    """The method called `name`. std is for the methods whose spread is free; the others follow from sizes.

    factor: on the spread of the methods whose spread does not follow from the matrix itself.
    """
    depth = math.sqrt(2 * num_layers)
    methods: dict[str, InitMethod] = {
        "normal": _normal(factor * std),
        "scaled_normal": _normal(factor * std / depth),
        "single_residual_scaled_normal": _normal(factor * std / math.sqrt(num_layers)),
        # Nguyen & Salazar 2019, arXiv 1910.05895
        "small_init": _normal(factor * math.sqrt(2 / (5 * hidden_size))),
        # mesh-transformer-jax, Wang & Komatsuzaki 2021
        "wang_init": _normal(factor * 2 / (num_layers * math.sqrt(hidden_size))),
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
