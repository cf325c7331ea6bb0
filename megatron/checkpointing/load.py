"""Put a checkpoint into a live model and its optimizer, at the layout of this run, whatever layout saved it."""

from typing import Any

import torch
from torch import Tensor

from megatron.checkpointing.optimizer_state import MASTER, fragments, load_masters_from_model, prepare_state
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
    """Copy moments and masters into DeepSpeed's slices, and the number of updates made."""
    kinds = reader.optimizer_keys()
    if not kinds:
        raise CheckpointError(
            f"{reader.folder} holds no optimizer state. Set no_load_optim: true to start with fresh moments."
        )
    prepare_state(optimizer, [kind for kind in kinds if kind != MASTER], int(reader.state["optimizer_steps"]))
    load_masters_from_model(optimizer, parameters)
    for fragment in fragments(optimizer, parameters, masters=True):
        name = shard_of(fragment.parameter).name
        for kind in kinds:
            if kind not in fragment.tensors:
                raise CheckpointError(
                    f"{reader.folder} holds optimizer state {kind!r}, which this run's optimizer does not have. "
                    "Use the optimizer that saved it, or set no_load_optim: true."
                )
            part = _local_part(reader.optimizer_tensor(name, kind), fragment.parameter, reader, parallel)
            target = fragment.tensors[kind].data
            target.copy_(part.reshape(-1).narrow(0, fragment.start, target.numel()))


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
