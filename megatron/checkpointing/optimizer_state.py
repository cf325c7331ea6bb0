"""Reach the fp32 masters and optimizer moments that DeepSpeed's ZeRO-1 keeps in flat, data-parallel slices.

DeepSpeed links every model parameter to its slice (`_hp_mapping`): where the slice starts in the flattened
parameter and where it lies in this rank's flat partition. Saving and loading go through that link by parameter
name, so that the files say nothing about DeepSpeed's own flat layout.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from megatron.errors import CheckpointError

MASTER = "fp32"


@dataclass(frozen=True)
class Fragment:
    """This rank's part of one parameter's optimizer state: elements [start, start + numel) of the flat parameter."""

    parameter: torch.nn.Parameter
    start: int
    tensors: dict[str, Tensor]  # kind -> float32 [numel], views of the live state


def fragments(optimizer: Any, parameters: list[torch.nn.Parameter], *, masters: bool) -> Iterator[Fragment]:
    """The live optimizer state of this rank, one fragment per parameter it owns a part of.

    optimizer: DeepSpeed's ZeRO-1 or bf16 optimizer, after `prepare_state` or a first step.
    masters: include the fp32 master weights under the kind "fp32" (needless when the model itself is fp32).
    """
    for parameter in parameters:
        mapping = _mapping(parameter)
        if mapping is None:
            continue
        address = mapping.get_hp_fragment_address()
        flat = _flat_partitions(optimizer)[mapping.param_group_index]
        tensors = {
            kind: value.narrow(0, address.start, address.numel)
            for kind, value in optimizer.optimizer.state[flat].items()
            if torch.is_tensor(value) and value.shape == flat.shape
        }
        if masters:
            tensors[MASTER] = mapping.hp_fragment
        yield Fragment(parameter, mapping.lp_fragment_address.start, tensors)


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
        mapping = _mapping(parameter)
        if mapping is not None:
            address = mapping.lp_fragment_address
            part = parameter.detach().reshape(-1).narrow(0, address.start, address.numel)
            mapping.hp_fragment.data.copy_(part)


def _mapping(parameter: torch.nn.Parameter) -> Any:
    if not hasattr(parameter, "_hp_mapping"):
        raise CheckpointError(
            "This optimizer does not link parameters to their slices: only ZeRO stage 1 checkpoints are supported."
        )
    return parameter._hp_mapping


def _flat_partitions(optimizer: Any) -> list[Tensor]:
    if hasattr(optimizer, "single_partition_of_fp32_groups"):  # DeepSpeedZeroOptimizer
        return optimizer.single_partition_of_fp32_groups
    return optimizer.fp32_groups_flat_partition  # BF16_Optimizer
