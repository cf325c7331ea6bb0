"""Reach the fp32 masters and optimizer moments that DeepSpeed's ZeRO keeps in flat, data-parallel slices.

DeepSpeed links every model parameter to its slice: where the slice starts in the flattened parameter and where it
lies in this rank's flat partition (stages 1 and 2: `_hp_mapping`; stage 3: `grad_position`). Saving and loading go
through that link by parameter name, so that the files say nothing about DeepSpeed's own flat layout.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from megatron.checkpointing.partitions import Stretch, is_partitioned, own_stretch, own_values
from megatron.errors import CheckpointError

MASTER = "fp32"


@dataclass(frozen=True)
class Fragment:
    """This rank's part of one parameter's optimizer state: elements [start, start + numel) of the flat parameter.

    It lies at `offset` of `partition`, which holds the reduced gradient while the inner optimizer steps.
    """

    parameter: torch.nn.Parameter
    start: int
    tensors: dict[str, Tensor]  # kind -> float32 [numel], views of the live state
    partition: Tensor
    offset: int


def fragments(optimizer: Any, parameters: list[torch.nn.Parameter], *, masters: bool) -> Iterator[Fragment]:
    """The live optimizer state of this rank, one fragment per parameter it owns a part of.

    optimizer: DeepSpeed's ZeRO or bf16 optimizer, after `prepare_state` or a first step.
    masters: include the fp32 master weights under the kind "fp32" (needless when the model itself is fp32).
    """
    for parameter in parameters:
        place = _place(optimizer, parameter)
        if place is None:
            continue
        flat = _flat_partitions(optimizer)[place.partition]
        tensors = {
            kind: value.narrow(0, place.offset, place.stretch.numel)
            for kind, value in optimizer.optimizer.state[flat].items()
            if torch.is_tensor(value) and value.shape == flat.shape
        }
        if masters:
            tensors[MASTER] = flat.detach().narrow(0, place.offset, place.stretch.numel)
        yield Fragment(parameter, place.stretch.start, tensors, flat, place.offset)


def optimizer_steps(optimizer: Any) -> int:
    """Updates made so far, as the torch optimizer counts them (Adam's bias correction depends on it)."""
    steps = {
        int(state["step"])
        for flat in _flat_partitions(optimizer)
        if (state := optimizer.optimizer.state.get(flat)) and "step" in state
    }
    return max(steps, default=0)


def prepare_state(optimizer: Any, kinds: list[str], steps: int) -> None:
    """Create zero moments of the given kinds before a first step, so that saved values can be copied in."""
    for flat in _flat_partitions(optimizer):
        state = optimizer.optimizer.state[flat]
        state["step"] = torch.tensor(float(steps), dtype=torch.float32, device=flat.device)
        for kind in kinds:
            if kind not in state:
                state[kind] = torch.zeros_like(flat)


def load_masters_from_model(optimizer: Any, parameters: list[torch.nn.Parameter]) -> None:
    """Set the fp32 masters to the model's present weights (fp32 runs, and starts without optimizer state)."""
    for parameter in parameters:
        place = _place(optimizer, parameter)
        if place is None:
            continue
        own = own_stretch(parameter)
        values = own_values(parameter).reshape(-1).narrow(0, place.stretch.start - own.start, place.stretch.numel)
        flat = _flat_partitions(optimizer)[place.partition]
        flat.data.narrow(0, place.offset, place.stretch.numel).copy_(values)


@dataclass(frozen=True)
class _Place:
    """A stretch of a flattened parameter lies at `offset` of the flat partition number `partition`."""

    stretch: Stretch
    partition: int
    offset: int


def _place(optimizer: Any, parameter: torch.nn.Parameter) -> _Place | None:
    """None where this rank holds nothing of the parameter."""
    if is_partitioned(parameter):
        partition, offset, _ = optimizer.grad_position[optimizer.get_param_id(parameter)]
        stretch = own_stretch(parameter)
        return _Place(stretch, partition, offset) if stretch.numel else None
    if not hasattr(parameter, "_hp_mapping"):
        raise CheckpointError("This optimizer does not link parameters to their slices: only ZeRO stages 1 to 3 do.")
    mapping = parameter._hp_mapping
    if mapping is None:
        return None
    inside, address = mapping.lp_fragment_address, mapping.get_hp_fragment_address()
    return _Place(Stretch(inside.start, inside.numel), mapping.param_group_index, address.start)


def _flat_partitions(optimizer: Any) -> list[Tensor]:
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):  # stage 3
        return optimizer.fp32_partitioned_groups_flat
    if hasattr(optimizer, "single_partition_of_fp32_groups"):  # stages 1 and 2
        return optimizer.single_partition_of_fp32_groups
    return optimizer.fp32_groups_flat_partition  # BF16_Optimizer
