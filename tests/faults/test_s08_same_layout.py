"""50 steps at once against 25, a stop and 25 more, dropout on: equal in every bit of every loss, weight and moment."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from megatron.checkpointing.reader import CheckpointReader, find_checkpoint
from tests.faults.resumed_runs import train_one_after_another
from tests.helpers.processes import run_ranks
from tests.helpers.tiny_run import tiny_settings, write_settings, write_tiny_data

STEPS = 50
CASES = {
    "pipeline": ["pipe_parallel_size=2", "precision=bfloat16"],
    "tensor": ["model_parallel_size=2"],
    "data": ["precision=bfloat16", "async_save=true"],
    "pipeline-fp32": ["pipe_parallel_size=2", "async_save=true"],
}


@pytest.mark.multiprocess
@pytest.mark.slow
def test_bit_equal(tmp_path: Path, score: Callable[..., None]) -> None:
    data = write_tiny_data(tmp_path / "data")
    settings = tiny_settings(data, train_iters=STEPS, hidden_dropout=0.1, attention_dropout=0.1, checkpoint_factor=100)
    settings |= {"attention_path": "reference", "train_batch_size": 2, "seq_length": 32, "eval_interval": 20}
    config = write_settings(tmp_path / "config.yml", settings)
    pieces = []
    for name, case in CASES.items():
        whole, parts = f"save={tmp_path / name}-whole", f"save={tmp_path / name}-parts"
        pieces += [[whole, *case], [parts, "exit_interval=25", *case], [parts, "auto_resume=true", *case]]
    run_ranks(train_one_after_another, 2, str(config), pieces)
    held = sum(equal(tmp_path / f"{name}-whole", tmp_path / f"{name}-parts") for name in CASES)
    assert not equal(tmp_path / "pipeline-whole", tmp_path / "tensor-whole")
    score("S8", held, len(CASES), naive(losses(tmp_path / "tensor-whole")))


def naive(whole: list[float]) -> str:
    """Without the generators' states dropout draws other masks; without the moments Adam starts anew."""
    generator = torch.Generator().manual_seed(0)
    before = torch.rand(4, generator=generator)
    assert not torch.equal(before, torch.rand(4, generator=generator)) and len(set(whole)) > 1
    return "random states not restored: other dropout masks from the first step on"


def equal(one: Path, other: Path) -> bool:
    ours, theirs = (CheckpointReader(find_checkpoint(save)) for save in (one, other))
    assert ours.iteration == theirs.iteration == STEPS
    return losses(one) == losses(other) and all(
        torch.equal(ours.weight(name), theirs.weight(name))
        and all(
            torch.equal(ours.optimizer_tensor(name, kind), theirs.optimizer_tensor(name, kind))
            for kind in ours.optimizer_keys()
        )
        for name in ours.names()
    )


def losses(save: Path) -> list[float]:
    events = [json.loads(line) for line in (save / "events.jsonl").read_text().splitlines()]
    found = [event["loss"] for event in events if event["kind"] == "step"]
    assert len(found) == STEPS
    return found
