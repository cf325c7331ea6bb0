"""Put a checkpoint into a live model and its optimizer, at the layout of this run, whatever layout saved it."""

from typing import Any

import torch
from torch import Tensor

from megatron.checkpointing.optimizer_state import (
    MASTER,
    empty_state,
    fragments,
    load_masters_from_model,
    set_whole_state,
    state_kinds,
    store_state,
)
from megatron.checkpointing.partitions import set_values
from megatron.checkpointing.reader import CheckpointReader
from megatron.errors import CheckpointError
from megatron.mpu.parallel_state import ParallelState
from megatron.mpu.shard import shard_of


def load_weights(reader: CheckpointReader, parameters: list[torch.nn.Parameter], parallel: ParallelState) -> None:
    """Copy each parameter's slice from the checkpoint's global tensors.

    Raises CheckpointError naming the first tensor that is absent or has another shape; extra tensors in the
    checkpoint that no stage asks for are found by `check_complete`.
    """
    for parameter in parameters:
        set_values(parameter, _local_part(reader.weight(shard_of(parameter).name), parameter, reader, parallel))


def load_optimizer(
    reader: CheckpointReader, optimizer: Any, parameters: list[torch.nn.Parameter], parallel: ParallelState
) -> None:
    """Copy moments and masters into DeepSpeed's slices, and the number of updates made.

    Raises CheckpointError where the checkpoint's optimizer kept other state than this run's.
    """
    if not reader.optimizer_keys() and any(any(state_kinds(parameter)) for parameter in parameters):
        raise CheckpointError(
            f"{reader.folder} holds no optimizer state. Set no_load_optim: true to start with fresh moments."
        )
    for parameter in parameters:
        _check_kinds(reader, parameter)
    load_masters_from_model(optimizer, parameters)
    state = empty_state(optimizer, parameters)
    for fragment in fragments(optimizer, parameters, masters=True, state=state):
        name = shard_of(fragment.parameter).name
        for kind, target in fragment.tensors.items():
            if kind in reader.optimizer_kinds(name):
                part = _local_part(reader.optimizer_tensor(name, kind), fragment.parameter, reader, parallel)
                target.copy_(part.reshape(-1).narrow(0, fragment.start, target.numel()))
    store_state(optimizer, state, int(reader.state["optimizer_steps"]))
    for parameter in parameters:
        _, whole = state_kinds(parameter)
        if whole:
            name = shard_of(parameter).name
            set_whole_state(optimizer, parameter, {kind: reader.optimizer_tensor(name, kind) for kind in whole})


def _check_kinds(reader: CheckpointReader, parameter: torch.nn.Parameter) -> None:
    name = shard_of(parameter).name
    stored = set(reader.optimizer_kinds(name)) - {MASTER}
    wanted = {kind for kinds in state_kinds(parameter) for kind in kinds}
    if stored != wanted:
        raise CheckpointError(
            f"{reader.folder} holds {_listed(stored)} of {name}, and this run's optimizer keeps {_listed(wanted)}. "
            "Use the optimizer that saved it, or set no_load_optim: true."
        )


def _listed(kinds: set[str]) -> str:
    return ", ".join(sorted(kinds)) or "no optimizer state"


def check_complete(reader: CheckpointReader, names: set[str]) -> None:
    """Every tensor of the checkpoint must be wanted by some stage: the saved model had no more than this one."""
    unused = sorted(set(reader.names()) - names)
    if unused:
        raise CheckpointError(
            f"{reader.folder} holds {len(unused)} tensors that this model does not have, first {unused[0]!r}. "
            "The model settings differ from those of the saved run (see state.json)."
        )


def _local_part(
    value: Tensor, parameter: torch.nn.Parameter, reader: CheckpointReader, parallel: ParallelState
) -> Tensor:
    shard = shard_of(parameter)
    if tuple(value.shape) != tuple(shard.shape):
        raise CheckpointError(
            f"{shard.name} has shape {list(value.shape)} in {reader.folder} and {list(shard.shape)} in this model. "
            "The model settings differ from those of the saved run (see state.json)."
        )
    if shard.dim is None:
        return value
    size = shard.local_shape(parallel.tp.size)[shard.dim]
    return value.narrow(shard.dim, parallel.tp.rank * size, size)
