"""Weights that ZeRO-3 cuts over the data ranks: each rank holds an equal stretch of the flattened parameter.

The last stretches may be padded, or lie behind the parameter's end altogether.
"""

from dataclasses import dataclass

import deepspeed
import torch
from torch import Tensor


@dataclass(frozen=True)
class Stretch:
    """Elements [start, start + numel) of a flattened parameter; numel may be 0."""

    start: int
    numel: int


def is_partitioned(parameter: torch.nn.Parameter) -> bool:
    """Whether ZeRO-3 holds this parameter."""
    return hasattr(parameter, "ds_id")


def own_stretch(parameter: torch.nn.Parameter) -> Stretch:
    """What this rank holds of a parameter; all of it without ZeRO-3."""
    if not is_partitioned(parameter):
        return Stretch(0, parameter.numel())
    size: int = parameter.partition_numel()  # type: ignore[attr-defined]  # ZeRO-3 parameters have it
    start = size * torch.distributed.get_rank(parameter.ds_process_group)  # type: ignore[attr-defined]
    return Stretch(start, max(0, min(size, parameter.ds_numel - start)))  # type: ignore[attr-defined]


def own_values(parameter: torch.nn.Parameter) -> Tensor:
    """The values of `own_stretch`: shaped as the parameter without ZeRO-3, flat with it."""
    if not is_partitioned(parameter):
        return parameter.detach()
    values: Tensor = parameter.ds_tensor  # type: ignore[attr-defined]
    return values.detach().narrow(0, 0, own_stretch(parameter).numel)


def set_values(parameter: torch.nn.Parameter, values: Tensor) -> None:
    """Overwrite a parameter; under ZeRO-3 all data ranks call it together with the same values [parameter's shape]."""
    with torch.no_grad(), deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
        parameter.copy_(values)
