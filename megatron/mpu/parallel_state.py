"""Who am I among the ranks: the pipeline x data x tensor grid and its process groups.

Tensor-parallel ranks are neighbours, then data, then pipeline (DeepSpeed's axes pipe, data, model).
"""

import contextlib
import io
import os
import socket
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch.distributed

from megatron.errors import SettingsError


@dataclass(frozen=True)
class TensorParallel:
    """The ranks that share each layer. A size of 1 never communicates, and needs no group."""

    rank: int = 0
    size: int = 1
    group: Any = None


@dataclass(frozen=True)
class ParallelState:
    """This rank's place in the grid. `topology` and `grid` are DeepSpeed's, None in a single process."""

    rank: int = 0
    world_size: int = 1
    tp: TensorParallel = TensorParallel()
    pp_rank: int = 0
    pp_size: int = 1
    dp_rank: int = 0
    dp_size: int = 1
    dp_group: Any = None
    topology: Any = None
    grid: Any = None


def single_process() -> ParallelState:
    """The state of a process that trains or generates alone, without torch.distributed."""
    return ParallelState()


def initialize_parallel(tp_size: int, pp_size: int, backend: str, timeout: timedelta) -> ParallelState:
    """Join the other ranks (environment RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT) and build the grid.

    backend: "gloo" or "nccl". timeout: how long a collective may wait for a peer before it gives up.
    A process without these variables becomes a world of one. Raises SettingsError when
    tensor x pipeline sizes do not divide the number of ranks.
    """
    _default_environment()
    world_size = int(os.environ["WORLD_SIZE"])
    if world_size % (tp_size * pp_size):
        raise SettingsError(
            f"{world_size} ranks cannot be split into model_parallel_size {tp_size} x "
            f"pipe_parallel_size {pp_size} = {tp_size * pp_size} ranks per model copy. "
            f"Start a multiple of {tp_size * pp_size} ranks, or lower one of the two sizes."
        )
    _init_distributed(backend, timeout)

    from deepspeed.runtime.pipe.topology import PipelineParallelGrid, PipeModelDataParallelTopology

    topology = PipeModelDataParallelTopology(num_pp=pp_size, num_mp=tp_size, num_dp=world_size // (tp_size * pp_size))
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its topology
        grid = PipelineParallelGrid(topology=topology)
    return ParallelState(
        rank=grid.get_global_rank(),
        world_size=world_size,
        tp=TensorParallel(rank=grid.get_slice_parallel_rank(), size=tp_size, group=grid.get_slice_parallel_group()),
        pp_rank=grid.get_pipe_parallel_rank(),
        pp_size=pp_size,
        dp_rank=grid.get_data_parallel_rank(),
        dp_size=grid.get_data_parallel_world_size(),
        dp_group=grid.get_data_parallel_group(),
        topology=topology,
        grid=grid,
    )


def leave_parallel() -> None:
    """Part from the other ranks in good order, all at the same point of the program.

    A process that ends with its groups still open now and then aborts in gloo's threads after all work is done.
    """
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def _default_environment() -> None:
    if "RANK" in os.environ:
        os.environ.setdefault("LOCAL_RANK", "0")
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ.update(
        RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", LOCAL_WORLD_SIZE="1",
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
    )  # fmt: skip


def _init_distributed(backend: str, timeout: timedelta) -> None:
    import deepspeed
    import deepspeed.ops

    # DeepSpeed would compile a C++ all-reduce for CPU here, which needs a compiler, takes half a minute
    # cold and serves inference only (deepspeed 0.19.8, comm/torch.py).
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # Groups that DeepSpeed makes later take torch's default of 30 minutes unless that default is changed.
    c10d = torch.distributed.distributed_c10d
    c10d.default_pg_timeout = timeout
    c10d.default_pg_nccl_timeout = timeout
    deepspeed.get_accelerator().set_device(int(os.environ["LOCAL_RANK"]))
    deepspeed.init_distributed(dist_backend=backend, timeout=timeout, auto_mpi_discovery=False, verbose=False)
