"""The optimizer a run's settings ask for, over this rank's parameters, for DeepSpeed to shard."""

from collections.abc import Iterable
from typing import Any

import torch

from megatron.errors import SettingsError
from megatron.mpu.parallel_state import TensorParallel
from megatron.neox_arguments.optimization import OPTIMIZERS
from megatron.neox_arguments.optimization_settings import OptimizerSettings
from megatron.optim.adafactor import Adafactor
from megatron.optim.adam8bit import build_adam8bit
from megatron.optim.groups import parameter_groups
from megatron.optim.lion import Lion
from megatron.optim.muon import Muon
from megatron.optim.sliced import SlicedOptimizer


def build_optimizer(settings: OptimizerSettings, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer named in `args.derived.optimizer`."""
    groups = parameter_groups(parameters, settings)
    lr, betas, eps = settings.lr, settings.betas, settings.eps
    if settings.name == "adamw":
        # Fused: one pass over weights and moments instead of ten (CPU and CUDA, torch >= 2.4).
        kind = torch.optim.AdamW if settings.decoupled else torch.optim.Adam
        return kind(groups, lr=lr, betas=betas, eps=eps, fused=True)
    if settings.name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=settings.momentum)
    if settings.name == "lion":
        return Lion(groups, lr=lr, betas=betas)
    if settings.name == "muon":
        return Muon(groups, settings)
    if settings.name == "adafactor":
        return Adafactor(groups, settings)
    if settings.name == "adamw8bit":
        return build_adam8bit(groups, settings)
    raise SettingsError(f"optimizer.type {settings.name!r} is not available. Choose {', '.join(OPTIMIZERS)}.")


def attach_ranks(zero: Any, tp: TensorParallel) -> None:
    """Once DeepSpeed's optimizer `zero` has cut the weights: tell an optimizer of whole matrices who holds the rest."""
    if isinstance(zero.optimizer, SlicedOptimizer):
        zero.optimizer.attach(zero.dp_process_group, tp)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Put `lr`, times the group's own share of it, into every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
