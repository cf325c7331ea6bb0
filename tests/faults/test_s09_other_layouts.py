"""Saved on 4 ranks, resumed on 1 to 4, cut in other ways, with other accumulation: same samples, same losses."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.faults.resumed_runs import train_one_after_another
from tests.helpers.processes import run_ranks
from tests.helpers.tiny_run import tiny_settings, write_settings, write_tiny_data

SAVED = ["pipe_parallel_size=2", "model_parallel_size=2", "train_micro_batch_size_per_gpu=2"]
LAYOUTS: dict[int, list[list[str]]] = {
    1: [["train_micro_batch_size_per_gpu=1"], ["train_micro_batch_size_per_gpu=4"]],
    2: [
        ["train_micro_batch_size_per_gpu=3"],
        ["model_parallel_size=2"],
        ["pipe_parallel_size=2"],
        ["context_parallel_size=2"],
    ],
    3: [["train_micro_batch_size_per_gpu=2"], ["pipe_parallel_size=3"]],
    4: [
        ["train_micro_batch_size_per_gpu=3"],
        ["model_parallel_size=4"],
        ["pipe_parallel_size=2", "train_micro_batch_size_per_gpu=1"],
        ["model_parallel_size=2", "train_micro_batch_size_per_gpu=3"],
    ],
}
RELATIVE = 1e-6


@pytest.mark.multiprocess
@pytest.mark.slow
def test_the_same_run_goes_on(tmp_path: Path, score: Callable[..., None]) -> None:
    data = write_tiny_data(tmp_path / "data")
    settings = tiny_settings(
        data, train_iters=8, train_batch_size=12, seq_length=32, log_sample_hashes=True, checkpoint_factor=100
    )
    settings |= {"train_micro_batch_size_per_gpu": 1, "checkpoint_factor": 100}
    config = str(write_settings(tmp_path / "config.yml", settings))
    saved, whole = tmp_path / "saved", tmp_path / "whole"
    first = [f"save={saved}", "exit_interval=4", *SAVED]
    run_ranks(train_one_after_another, 4, config, [[f"save={whole}", *SAVED], first])
    for ranks, layouts in LAYOUTS.items():
        pieces = []
        for number, layout in enumerate(layouts):
            save = shutil.copytree(saved, tmp_path / f"{ranks}-{number}")
            pieces.append([f"save={save}", f"load={save}", *layout])
        run_ranks(train_one_after_another, ranks, config, pieces)
    wanted, held, tried = told(whole), 0, 0
    assert len(wanted) == 8
    for ranks, layouts in LAYOUTS.items():
        for number, layout in enumerate(layouts):
            found = told(tmp_path / f"{ranks}-{number}")
            worst = max(abs(found[step][1] / wanted[step][1] - 1) for step in wanted)
            good = [hashes for hashes, _ in found.values()] == [hashes for hashes, _ in wanted.values()]
            assert good and worst < RELATIVE, (ranks, layout, worst)
            held, tried = held + 1, tried + 1
    score("S9", held, tried, naive())


def naive() -> str:
    """Optimizer slices by rank, as ZeRO writes them: another number of ranks finds slices of another length."""
    moments = torch.arange(10.0)
    files = dict(enumerate(moments.tensor_split(4)))
    assert any(len(files[rank]) != len(part) for rank, part in enumerate(moments.tensor_split(2)))
    return "files by rank: slices of another length, refused or misplaced"


def told(save: Path) -> dict[int, tuple[str, float]]:
    """Step -> hash of its samples, and its loss."""
    events = [json.loads(line) for line in (save / "events.jsonl").read_text().splitlines()]
    hashes = {event["iteration"]: event["hash"] for event in events if event["kind"] == "samples"}
    losses = {event["iteration"]: event["loss"] for event in events if event["kind"] == "step"}
    return {step: (hashes[step], losses[step]) for step in hashes}
