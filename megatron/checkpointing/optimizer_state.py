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


State = dict[int, dict[str, Tensor]]  # number of a flat partition -> kind -> float32, shaped like the partition


def fragments(
    optimizer: Any, parameters: list[torch.nn.Parameter], *, masters: bool, state: State | None = None
) -> Iterator[Fragment]:
    """The optimizer state of this rank, one fragment per parameter it owns a part of.

    optimizer: DeepSpeed's ZeRO or bf16 optimizer.
    masters: include the fp32 master weights under the kind "fp32" (needless when the model itself is fp32).
    state: to be looked at in place of the live one.
    """
    state = {} if state is None else state
    for parameter in parameters:
        place = _place(optimizer, parameter)
        if place is None:
            continue
        flat = _flat_partitions(optimizer)[place.partition]
        if place.partition not in state:
            state[place.partition] = _live_state(optimizer.optimizer, flat)
        tensors = {
            kind: value.narrow(0, place.offset, place.stretch.numel) for kind, value in state[place.partition].items()
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


def whole_state(optimizer: Any, parameter: torch.nn.Parameter) -> dict[str, Tensor]:
    """State of a parameter that is not shaped like it (Adafactor's rows and columns), the same on every rank."""
    return getattr(optimizer.optimizer, "whole", {}).get(parameter, {})


def set_whole_state(optimizer: Any, parameter: torch.nn.Parameter, tensors: dict[str, Tensor]) -> None:
    optimizer.optimizer.whole[parameter] = {kind: value.to(parameter.device) for kind, value in tensors.items()}


def state_kinds(parameter: torch.nn.Parameter) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the state that this run's optimizer keeps of a parameter: elementwise, whole."""
    return parameter.state_kinds  # type: ignore[attr-defined]  # put there by megatron/optim/groups.py


def empty_state(optimizer: Any, parameters: list[torch.nn.Parameter]) -> State:
    """Zeros where elementwise state will be, to be filled from a checkpoint."""
    flats = _flat_partitions(optimizer)
    state: State = {}
    for parameter in parameters:
        place = _place(optimizer, parameter)
        if place is not None:
            elementwise, _ = state_kinds(parameter)
            present = state.setdefault(place.partition, {})
            present |= {kind: torch.zeros_like(flats[place.partition]) for kind in elementwise if kind not in present}
    return state


def store_state(optimizer: Any, state: State, steps: int) -> None:
    """Make filled tensors the live state, as if `steps` updates had led there."""
    inner = optimizer.optimizer
    for number, flat in enumerate(_flat_partitions(optimizer)):
        tensors = {kind: value.detach() for kind, value in state.get(number, {}).items()}
        if hasattr(inner, "write_state"):
            inner.write_state(flat, tensors, steps)
        else:
            inner.state[flat].update(tensors)
            inner.state[flat]["step"] = torch.tensor(float(steps), dtype=torch.float32, device=flat.device)


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


def _live_state(inner: torch.optim.Optimizer, flat: Tensor) -> dict[str, Tensor]:
    """Views of elementwise state; copies from an optimizer that packs it (`read_state`)."""
    if hasattr(inner, "read_state"):
        return inner.read_state(flat)
    state = inner.state.get(flat, {})
    return {kind: value for kind, value in state.items() if torch.is_tensor(value) and value.shape == flat.shape}
