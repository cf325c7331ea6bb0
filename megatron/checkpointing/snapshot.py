"""What this rank owes to a checkpoint: its tensors by file, each with its place in the global tensor.

Each value is written once: replicated tensors by tensor rank 0, tied copies by their first stage, weights by data
rank 0 (under ZeRO-3 by each data rank its part), optimizer slices by the rank that keeps them.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from megatron.checkpointing.folders import optimizer_file, rng_file, weights_file
from megatron.checkpointing.optimizer_state import fragments, whole_state
from megatron.checkpointing.partitions import is_partitioned, own_stretch, own_values
from megatron.checkpointing.tensor_file import TensorFile
from megatron.mpu.parallel_state import ParallelState
from megatron.mpu.shard import counts_here, shard_of


def rank_files(
    parameters: list[torch.nn.Parameter],
    optimizer: Any,
    rng: dict[str, Tensor],
    parallel: ParallelState,
    *,
    masters: bool,
) -> list[TensorFile]:
    """The files of this rank. The tensors are views of the live ones: write them, or copy them, before training on.

    parameters: this rank's, each with `.shard`; optimizer: DeepSpeed's ZeRO optimizer or None.
    rng: generator states of this rank (uint8 tensors); without any there is no file.
    """
    files = []
    owned = [parameter for parameter in parameters if counts_here(parameter, parallel.tp)]
    held = [p for p in owned if (is_partitioned(p) or parallel.data_rank == 0) and own_stretch(p).numel]
    if held:
        files.append(
            TensorFile(
                weights_file(parallel.pp_rank, parallel.tp.rank, parallel.data_rank),
                {shard_of(p).name: own_values(p) for p in held},
                {shard_of(p).name: piece_of(p, "weight", own_stretch(p).start, parallel) for p in held},
            )
        )
    if optimizer is not None:
        tensors: dict[str, Tensor] = {}
        pieces = {}
        for fragment in fragments(optimizer, owned, masters=masters):
            for kind, value in fragment.tensors.items():
                key = f"{kind}/{shard_of(fragment.parameter).name}"
                tensors[key] = value.detach()
                pieces[key] = piece_of(fragment.parameter, kind, fragment.start, parallel)
        for parameter in owned if parallel.data_rank == parallel.tp.rank == 0 else ():
            for kind, value in whole_state(optimizer, parameter).items():
                key = f"{kind}/{shard_of(parameter).name}"
                tensors[key] = value
                pieces[key] = _piece(shard_of(parameter).name, kind, tuple(value.shape))
        files.append(
            TensorFile(optimizer_file(parallel.pp_rank, parallel.tp.rank, parallel.data_rank), tensors, pieces)
        )
    if rng:
        files.append(TensorFile(rng_file(parallel.rank), rng))
    return files


class HostCopies:
    """Copies of a snapshot in host memory, which is kept from one save to the next: page faults cost more than copying.

    Costs as much host memory as the rank's part of a checkpoint takes on disk.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], Tensor] = {}

    def take(self, files: Iterable[TensorFile]) -> list[TensorFile]:
        """The same files with tensors that later training does not touch. Overwrites what the last call returned."""
        copied = [
            TensorFile(file.name, {key: self._copy(file.name, key, value) for key, value in file.tensors.items()},
                       file.pieces)
            for file in files
        ]  # fmt: skip
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return copied

    def _copy(self, name: str, key: str, value: Tensor) -> Tensor:
        kept = self._kept.get((name, key))
        if kept is None or kept.shape != value.shape or kept.dtype != value.dtype:
            kept = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
            self._kept[name, key] = kept
        return kept.copy_(value, non_blocking=True)


def piece_of(parameter: torch.nn.Parameter, kind: str, flat_start: int, parallel: ParallelState) -> dict[str, Any]:
    """Where a rank's tensor lies: its part along `dim`, and from which value on in that part, flattened."""
    shard = shard_of(parameter)
    size = 0 if shard.dim is None else shard.local_shape(parallel.tp.size)[shard.dim]
    place = {"dim": shard.dim, "dim_start": parallel.tp.rank * size, "dim_size": size, "flat_start": flat_start}
    return _piece(shard.name, kind, shard.shape) | place


def _piece(name: str, kind: str, shape: tuple[int, ...]) -> dict[str, Any]:
    """A tensor of which one file holds everything."""
    place = {"dim": None, "dim_start": 0, "dim_size": 0, "flat_start": 0}
    return {"name": name, "kind": kind, "shape": list(shape), **place}
