"""Runs on every rank of a trial: one collective over all ranks, timed; then one training step that leaves no trace.

Rank 0 prints what was found, one line that begins with MARK each. deepy.py starts it like any script.
"""

import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from megatron.mpu.parallel_state import ParallelState
    from megatron.neox_arguments.arguments import NeoXArgs

MARK = "deepy-rank "
_BYTES = 4 << 20
_REPEATS = 5


def main() -> None:
    """`--settings BLOB [--no-step]`."""
    from megatron.launcher.accelerators import visible_accelerators
    from megatron.launcher.environment import accelerator_variables, scheduler_rank_variables
    from megatron.neox_arguments.cli import arguments_from_command_line
    from megatron.training.watchdog import Watchdog

    os.environ.update(scheduler_rank_variables(os.environ))
    os.environ.update(accelerator_variables(os.environ, visible_accelerators()))
    words = [word for word in sys.argv[1:] if word != "--no-step"]
    args = arguments_from_command_line(words, int(os.environ.get("WORLD_SIZE", "1")))
    watchdog = Watchdog(60 * args.timeout_minutes, int(os.environ.get("RANK", "0")))
    watchdog.start()
    from megatron.mpu.parallel_state import leave_parallel
    from megatron.training.build import start_parallel

    parallel = start_parallel(args)
    _tell("collective", _collective())
    if "--no-step" not in sys.argv:
        _tell("step", _step(args, parallel))
    leave_parallel()
    watchdog.stop()


def _collective() -> dict[str, Any]:
    """A sum over all ranks: right, and how fast. bandwidth: bytes per second that each rank sends and receives."""
    import torch
    import torch.distributed as dist

    from megatron.errors import NumericsError

    backend, world = dist.get_backend(), dist.get_world_size()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if backend == "nccl" else torch.device("cpu")
    hosts: list[str | None] = [None] * world
    dist.all_gather_object(hosts, socket.gethostname())
    values = torch.full((_BYTES // 4,), float(dist.get_rank() + 1), device=device)
    dist.all_reduce(values)
    if not bool((values == world * (world + 1) / 2).all()):
        raise NumericsError(f"a sum over {world} ranks came out wrong: {values.unique()[:4].tolist()} ({backend}).")
    seconds = []
    for _ in range(_REPEATS):
        dist.barrier()
        start = time.perf_counter()
        dist.all_reduce(values)
        float(values[0])  # waits for a GPU
        seconds.append(time.perf_counter() - start)
    middle = sorted(seconds)[_REPEATS // 2]
    return {
        "backend": backend,
        "ranks": world,
        "hosts": hosts,
        "bytes": _BYTES,
        "seconds": middle,
        "bandwidth": 2 * (world - 1) / world * _BYTES / middle,
    }


def _step(args: "NeoXArgs", parallel: "ParallelState") -> dict[str, Any]:
    """One update from random weights on the first samples."""
    import math

    from megatron.data.skipping import Skip
    from megatron.errors import NumericsError
    from megatron.launcher import place
    from megatron.monitor.peak_memory import peak_memory
    from megatron.training.batches import engine_batches
    from megatron.training.build import build_run
    from megatron.training.loop import train_step

    place.at("building the model")
    start = time.perf_counter()
    run = build_run(args, parallel)
    read = run.datasets.train.batches(
        consumed_samples=0,
        micro_batch_size=args.derived.micro_batch_size,
        dp_rank=parallel.dp_rank,
        dp_size=parallel.dp_size,
    )
    batches = engine_batches(
        read,
        run.engine.gradient_accumulation_steps,
        parallel,
        average=args.loss_average,
        masked=run.datasets.train.masked,
    )
    built = time.perf_counter()
    step = train_step(run, batches, Skip([]))
    read.close()
    if not math.isfinite(step.loss):
        raise NumericsError(f"the loss of the first step is {step.loss}.")
    return {
        "loss": step.loss,
        "start_seconds": built - start,
        "seconds": time.perf_counter() - built,
        "memory": peak_memory(),
    }


def _tell(what: str, found: dict[str, Any]) -> None:
    if os.environ["RANK"] == "0":
        print(MARK + json.dumps({what: found}), flush=True)


if __name__ == "__main__":
    # A script's own folder comes first on sys.path; the names in this one must not hide others.
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    from megatron.launcher.entry import run_main

    run_main(main)
