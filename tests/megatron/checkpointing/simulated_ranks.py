"""Write one checkpoint as a grid of ranks would, without starting processes."""

import itertools
from pathlib import Path
from types import SimpleNamespace

import torch

from megatron.checkpointing.durable import write_json
from megatron.checkpointing.folders import STATE, optimizer_file, step_folder, weights_file
from megatron.checkpointing.manifest import describe_file, write_manifest
from megatron.checkpointing.snapshot import piece_of, rank_files
from megatron.checkpointing.tensor_file import TensorFile, write_tensor_file
from megatron.mpu.parallel_state import ParallelState, TensorParallel
from megatron.mpu.shard import Shard

Tensors = dict[str, tuple[torch.Tensor, int | None]]  # name -> (global tensor, axis split over tensor ranks)


def write_simulated(save: Path, tensors: Tensors, *, tp: int, dp: int, pp: int = 1, iteration: int = 1) -> Path:
    """`global_stepN` holding the tensors as weights, and twice their value as the moment `exp_avg`.

    pp: pipeline stages, which take the tensors in equal shares, in order.
    """
    folder = step_folder(save, iteration)
    folder.mkdir(parents=True)
    share = -(-len(tensors) // pp)
    for stage, tp_rank in itertools.product(range(pp), range(tp)):
        own = list(tensors.items())[stage * share : (stage + 1) * share]
        parameters = [_local(name, value, dim, tp_rank, tp) for name, (value, dim) in own]
        for dp_rank in range(dp):
            parallel = ParallelState(
                tp=TensorParallel(rank=tp_rank, size=tp), dp_rank=dp_rank, dp_size=dp, pp_rank=stage, pp_size=pp
            )
            for file in rank_files(parameters, None, {}, parallel, masters=False):
                assert file.name == weights_file(stage, tp_rank, 0)
                write_tensor_file(folder, file)
            _write_moments(folder, parameters, parallel)
    write_json(folder / STATE, {"iteration": iteration})
    write_manifest(folder, {path.name: describe_file(path) for path in folder.iterdir()})
    return folder


def _write_moments(folder: Path, parameters: list[torch.nn.Parameter], parallel: ParallelState) -> None:
    content, pieces = {}, {}
    for parameter in parameters:
        if parameter.shard.dim is None and parallel.tp.rank > 0:
            continue
        flat = 2 * parameter.detach().reshape(-1)
        bounds = [flat.numel() * rank // parallel.dp_size for rank in range(parallel.dp_size + 1)]
        start, end = bounds[parallel.dp_rank], bounds[parallel.dp_rank + 1]
        if end > start:
            key = f"exp_avg/{parameter.shard.name}"
            content[key] = flat[start:end].clone()
            pieces[key] = piece_of(parameter, "exp_avg", start, parallel)
    write_tensor_file(
        folder, TensorFile(optimizer_file(parallel.pp_rank, parallel.tp.rank, parallel.dp_rank), content, pieces)
    )


def _local(name: str, value: torch.Tensor, dim: int | None, rank: int, size: int) -> torch.nn.Parameter:
    local = value if dim is None else value.chunk(size, dim)[rank]
    parameter = torch.nn.Parameter(local.clone())
    parameter.shard = Shard(name=name, shape=tuple(value.shape), dim=dim)
    return parameter


def some_tensors(seed: int = 0) -> Tensors:
    """A column-split, a row-split and a whole tensor."""
    generator = torch.Generator().manual_seed(seed)
    draw = SimpleNamespace(of=lambda *shape: torch.randn(shape, generator=generator))
    return {
        "layers.0.mlp.dense_h_to_4h.weight": (draw.of(12, 5), 0),
        "layers.0.mlp.dense_4h_to_h.weight": (draw.of(5, 12), 1),
        "final_norm.weight": (draw.of(7), None),
    }
