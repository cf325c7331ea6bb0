"""Torch optimizers for DeepSpeed to shard: which parameters decay, and which optimizer a run's settings ask for."""

from collections.abc import Iterable
from typing import Any

import torch

from megatron.errors import SettingsError
from megatron.mpu.shard import shard_of
from megatron.neox_arguments.derived import OptimizerSettings


def parameter_groups(parameters: Iterable[torch.nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: matrices decay; norms and biases (one axis) do not, as in GPT-NeoX.

    Groups without parameters are left out: DeepSpeed cannot shard an empty group.
    """
    decayed: list[torch.nn.Parameter] = []
    kept: list[torch.nn.Parameter] = []
    for parameter in parameters:
        (kept if len(shard_of(parameter).shape) == 1 else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def build_optimizer(settings: OptimizerSettings, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer named in the settings over this rank's parameters.

    settings: `args.derived.optimizer` (name, lr, betas, eps, weight_decay, momentum).
    """
    groups = parameter_groups(parameters, settings.weight_decay)
    if settings.name in ("adam", "adamw"):
        # Fused: one pass over weights and moments instead of ten (CPU and CUDA, torch >= 2.4).
        return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, eps=settings.eps, fused=True)
    if settings.name == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum)
    raise SettingsError(f"optimizer.type {settings.name!r} is not available. Choose adam or sgd.")
