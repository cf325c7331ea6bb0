"""A short run with the profiler on leaves a trace of its steps for each rank, allocations and backward included."""

import gzip
import json
import os
from pathlib import Path

import pytest

from tests.helpers.processes import run_ranks
from tests.helpers.tiny_run import tiny_settings, write_settings, write_tiny_data


@pytest.mark.multiprocess
def test_a_trace_per_rank_of_the_steps_asked_for(tmp_path: Path) -> None:
    settings = tiny_settings(
        write_tiny_data(tmp_path), train_iters=4, eval_iters=0, pipe_parallel_size=2, log_dir=str(tmp_path),
        profile=True, profile_step_start=2, profile_step_stop=3, memory_profiling=True,
    )  # fmt: skip
    run_ranks(train_once, 2, str(write_settings(tmp_path / "config.yml", settings)))
    traces = sorted((tmp_path / "profile").iterdir())
    assert [path.name for path in traces] == [f"steps-2-3-rank-0000{rank}.json.gz" for rank in (0, 1)]
    for path in traces:
        names = [event.get("name", "") for event in json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]]
        assert "[memory]" in names and "aten::linear" in names
        backward = sum(name.startswith("autograd::engine::evaluate_function: AddmmBackward") for name in names)
        assert backward % 8 == 0 and backward > 0  # two steps of four micro-batches


def train_once(config: str) -> None:
    """Runs on every rank."""
    from megatron.neox_arguments.load import load_arguments
    from megatron.training.build import build_run, start_parallel
    from megatron.training.loop import train

    args = load_arguments([config], world_size=int(os.environ["WORLD_SIZE"]))
    train(build_run(args, start_parallel(args)))
