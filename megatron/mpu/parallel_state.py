"""Who am I among the ranks: the pipeline x data x context x tensor grid and its process groups.

Tensor-parallel ranks are neighbours, then context, data, pipeline. DeepSpeed's axes are pipe, data, model: to it the
ranks of a context group are data-parallel ranks, over which it averages gradients and shards the optimizer.
"""

import contextlib
import io
import os
import socket
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch.distributed

from megatron.errors import SettingsError
from sepllm.attention.context.exchange import ContextGroup


@dataclass(frozen=True)
class TensorParallel:
    """The ranks that share each layer. A size of 1 never communicates, and needs no group.

    sequence: between the parallel linear layers each rank holds its part of the sequence only (Megatron sequence
    parallelism, Korthikanti et al. 2022, arXiv 2205.05198), where the ranks otherwise hold copies.
    """

    rank: int = 0
    size: int = 1
    group: Any = None
    sequence: bool = False


@dataclass(frozen=True)
class ParallelState:
    """This rank's place in the grid.

    cp: the ranks that share each text. dp_rank, dp_size: which of how many replicas, a context group being one.
    data_group: the ranks that hold the same weights, `data_size` of them, this one being number `data_rank`.
    `topology` and `grid` are DeepSpeed's, None in a single process.
    """

    rank: int = 0
    world_size: int = 1
    tp: TensorParallel = TensorParallel()
    cp: ContextGroup = field(default_factory=ContextGroup)
    pp_rank: int = 0
    pp_size: int = 1
    dp_rank: int = 0
    dp_size: int = 1
    data_group: Any = None
    topology: Any = None
    grid: Any = None

    @property
    def data_rank(self) -> int:
        """Number among the ranks that hold the same weights; 0 .. dp_size * cp.size - 1."""
        return self.dp_rank * self.cp.size + self.cp.rank

    @property
    def data_size(self) -> int:
        """How many ranks hold the same weights."""
        return self.dp_size * self.cp.size


def single_process() -> ParallelState:
    """The state of a process that trains or generates alone, without torch.distributed."""
    return ParallelState()


def initialize_parallel(
    tp_size: int,
    pp_size: int,
    backend: str,
    timeout: timedelta,
    cp_size: int = 1,
    *,
    sequence_parallel: bool = False,
) -> ParallelState:
    """Join the other ranks (environment RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT) and build the grid.

    backend: "gloo" or "nccl". timeout: how long a collective may wait for a peer before it gives up.
    sequence_parallel: see TensorParallel. A process without these variables becomes a world of one.
    Raises SettingsError when tensor x pipeline x context sizes do not divide the number of ranks.
    """
    _default_environment()
    world_size = int(os.environ["WORLD_SIZE"])
    copy = tp_size * pp_size * cp_size
    if world_size % copy:
        context = f" x context_parallel_size {cp_size}" if cp_size > 1 else ""
        raise SettingsError(
            f"{world_size} ranks cannot be split into model_parallel_size {tp_size} x "
            f"pipe_parallel_size {pp_size}{context} = {copy} ranks per model copy. "
            f"Start a multiple of {copy} ranks, or lower one of the sizes."
        )
    _init_distributed(backend, timeout)

    from deepspeed.runtime.pipe.topology import PipelineParallelGrid, PipeModelDataParallelTopology

    topology = PipeModelDataParallelTopology(num_pp=pp_size, num_mp=tp_size, num_dp=world_size // (tp_size * pp_size))
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its topology
        grid = PipelineParallelGrid(topology=topology)
    return ParallelState(
        rank=grid.get_global_rank(),
        world_size=world_size,
        tp=TensorParallel(
            rank=grid.get_slice_parallel_rank(),
            size=tp_size,
            group=grid.get_slice_parallel_group(),
            sequence=sequence_parallel and tp_size > 1,
        ),
        pp_rank=grid.get_pipe_parallel_rank(),
        pp_size=pp_size,
        cp=_context_group(topology, cp_size),
        dp_rank=grid.get_data_parallel_rank() // cp_size,
        dp_size=grid.get_data_parallel_world_size() // cp_size,
        data_group=grid.get_data_parallel_group(),
        topology=topology,
        grid=grid,
    )


def _context_group(topology: Any, cp_size: int) -> ContextGroup:
    """This rank's context group: neighbours on the data axis. A collective: all ranks make all groups."""
    if cp_size == 1:
        return ContextGroup()
    own, rank = ContextGroup(), torch.distributed.get_rank()
    for data_ranks in topology.get_axis_comm_lists("data"):
        for start in range(0, len(data_ranks), cp_size):
            ranks = data_ranks[start : start + cp_size]
            group = torch.distributed.new_group(ranks)
            if rank in ranks:
                own = ContextGroup(ranks.index(rank), cp_size, group)
    return own


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
